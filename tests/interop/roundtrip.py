#!/usr/bin/env python3
"""roundtrip.py [CONFORMANCE_FOLDER]: export(import(m)) is the same model, for every model at hand.

Same means: every field equal, except that tensors may be encoded in another way (raw, typed fields, external file), that
opset imports, initializers and value infos are sets, and that a missing attribute type is filled in."""
import pathlib
import subprocess
import sys
import tempfile

import onnx
from google.protobuf.descriptor import FieldDescriptor
from harness import BUILD, DATA, ROOT, Tally
from onnx import AttributeProto, TensorProto, numpy_helper

# Fields whose order means nothing, and the key that identifies an element.
SETS = {"opset_import": "domain", "initializer": "name", "value_info": "name", "metadata_props": "key"}
ENCODING = {"float_data", "int32_data", "string_data", "int64_data", "raw_data", "double_data", "uint64_data",
            "external_data", "data_location"}
KINDS = {"f": AttributeProto.FLOAT, "i": AttributeProto.INT, "s": AttributeProto.STRING, "t": AttributeProto.TENSOR,
         "g": AttributeProto.GRAPH, "floats": AttributeProto.FLOATS, "ints": AttributeProto.INTS,
         "strings": AttributeProto.STRINGS}


def values(tensor, base):
    """The elements of a TensorProto, whatever the encoding."""
    if tensor.data_type == TensorProto.STRING:
        return list(tensor.string_data)
    return numpy_helper.to_array(tensor, base).tobytes()


def normal(message, base):
    """A message as nested plain data; fields that are not set are left out."""
    out = {}
    for field, value in message.ListFields():
        name = field.name
        if isinstance(message, TensorProto) and name in ENCODING:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if isinstance(value, (list, tuple)) or hasattr(value, "add"):
                value = [normal(item, base) for item in value]
            else:
                value = normal(value, base)
        elif hasattr(value, "extend"):
            value = list(value)
        if name in SETS:
            value = {item.get(SETS[name], ""): item for item in value}
        if name == "domain" and value == "ai.onnx":
            value = ""
        out[name] = value
    if isinstance(message, TensorProto):
        out["values"] = values(message, base)
    if isinstance(message, AttributeProto) and not message.type:
        out["type"] = next((kind for key, kind in KINDS.items() if key in out), AttributeProto.INTS)
    # An optional field that is written though empty says the same as one that is not; so does version 0 of a model.
    return {key: value for key, value in out.items()
            if value not in ("", b"", [], {}) and not (key == "model_version" and value == 0)}


def difference(a, b, path="model"):
    """The first place where two normal forms differ, or None."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            if key not in a or key not in b:
                return f"{path}.{key} is only in the {'result' if key in b else 'original'}"
            found = difference(a[key], b[key], f"{path}.{key}")
            if found:
                return found
        return None
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((d for i, (x, y) in enumerate(zip(a, b)) if (d := difference(x, y, f"{path}[{i}]"))), None)
    if a == b or (isinstance(a, float) and a != a and b != b):
        return None
    return f"{path}: {str(b)[:80]!r}, was {str(a)[:80]!r}"


def compare(original, result):
    a, b = (onnx.load(str(p), load_external_data=False) for p in (original, result))
    return difference(normal(a, str(original.parent)), normal(b, str(result.parent)))


def main():
    models = sorted(DATA.glob("models/*.onnx")) + sorted(ROOT.glob("examples/*/*.onnx"))
    models += sorted(ROOT.glob("tests/fuzz/corpus/*.onnx"))
    if len(sys.argv) > 1:
        models += sorted(pathlib.Path(sys.argv[1]).glob("*/*/model.onnx"))
        models += sorted(pathlib.Path(sys.argv[1]).glob("light/*.onnx"))
    tally = Tally("roundtrip")
    if not (DATA / "models").is_dir():
        tally.skip("models", f"no folder {DATA / 'models'}")
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(m, pathlib.Path(folder) / f"{i}.onnx") for i, m in enumerate(models)]
        errors = ""
        for at in range(0, len(pairs), 200):
            command = [BUILD / "roundtrip"] + [str(p) for pair in pairs[at:at + 200] for p in pair]
            errors += subprocess.run(command, capture_output=True, text=True).stderr
        print(errors, end="")
        for original, result in pairs:
            name = "/".join(original.parts[-3:])
            tally.check(name, compare(original, result) if result.exists() else "import or export failed")
    tally.finish()


if __name__ == "__main__":
    main()
