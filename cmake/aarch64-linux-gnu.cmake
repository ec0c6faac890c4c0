# aarch64-linux-gnu.cmake: toolchain file: builds for 64-bit ARM on a Debian machine of another architecture, with its
# cross compiler and the libraries of its foreign architecture arm64 (tools/setup.sh arm), and runs what it built with
# qemu. -DCMAKE_C_COMPILER=clang is fine too.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
if(NOT CMAKE_C_COMPILER)
    set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
endif()
set(CMAKE_C_COMPILER_TARGET aarch64-linux-gnu)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)

# pkg-config knows the libraries of this machine unless it is told otherwise.
set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
