// Where workers of other hosts reach this one.
#ifndef TI_LAUNCH_CONTROL_IP_H
#define TI_LAUNCH_CONTROL_IP_H
#include <stddef.h>

#include "base/status.h"

// The address of the interface from which `host` is reached, as text. Sends nothing. TI_ERR_IO: host has no address, or there is no way to it.
ti_status ti_control_ip(const char *host, char *out, size_t size, ti_error *err) TI_MUST_CHECK;

#endif
