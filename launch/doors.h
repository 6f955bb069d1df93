// The doors of rank 0: what clients talk to (HTTP, and libtitan's front door where --client-url asks), with the model's text side behind them.
#ifndef TI_LAUNCH_DOORS_H
#define TI_LAUNCH_DOORS_H
#include "base/metrics.h"
#include "coordinator/coordinator.h"
#include "launch/settings.h"

typedef struct ti_text ti_text;  // tokenizer, chat template, special tokens
typedef struct ti_doors ti_doors;

// Reads tokenizer and chat template. TI_ERR_FORMAT: the tokenizer knows more ids than the model's vocabulary. A model without a chat template serves
// completions; a synthetic one has no tokenizer: prompts are ids.
ti_status ti_text_open(const ti_settings *job, const ti_config *model, ti_text **out, ti_error *err) TI_MUST_CHECK;
void ti_text_close(ti_text *t);  // after the doors; NULL is fine

// Binds and serves from here on. Everything is borrowed until ti_doors_close. TI_ERR_EXISTS: the port is in use.
ti_status ti_doors_open(const ti_settings *job, const ti_text *t, ti_coord *coord, ti_metrics *metrics, ti_doors **out, ti_error *err) TI_MUST_CHECK;
const char *ti_doors_url(const ti_doors *d);  // "http://127.0.0.1:8000"
void ti_doors_close(ti_doors *d);             // about 3 s at most; NULL is fine

#endif
