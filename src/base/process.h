/* process.h: what the running process costs. Must not include anything but base/. */
#ifndef NW_BASE_PROCESS_H
#define NW_BASE_PROCESS_H

#include <stdint.h>

/* The most bytes of memory that were the process's at once (VmHWM), pages of mapped files included; 0: not known. Unlike
 * getrusage's number it leaves out what the program was that started this one. */
uint64_t nw_process_peak(void);

#endif
