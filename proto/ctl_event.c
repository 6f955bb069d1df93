// Events of the control transport are plain heap objects, whoever made them (see ctl.h).
#include <stdlib.h>

#include "proto/ctl.h"

void ti_ctl_event_free(ti_ctl_event *ev) { free(ev); }
