/* crc32c.h: the checksum of checkpoints and of TensorBoard's record files: CRC-32C (Castagnoli), as in iSCSI.
 * Must not include anything of this project. */
#ifndef NW_TRAIN_CRC32C_H
#define NW_TRAIN_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from `crc`, the checksum of what came before (0: nothing). */
uint32_t nw_crc32c(uint32_t crc, const void *data, size_t size);

#endif
