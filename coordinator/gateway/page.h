// The page served at /, embedded in the binary.
#ifndef TI_COORDINATOR_GATEWAY_PAGE_H
#define TI_COORDINATOR_GATEWAY_PAGE_H
#include <stddef.h>

// The page's bytes (static) and their count; NULL: this build has none, / is 404.
const char *ti_page(size_t *n);

#endif
