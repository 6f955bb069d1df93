// OpenAI's error object, and which HTTP status an error of ours is.
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/gateway/gateway_priv.h"

const char *ti_api_error_type(unsigned status) {
  switch (status) {
    case 401:
    case 403:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

static void put_or_null(ti_buf *out, const char *s) {
  if (s && *s) {
    ti_buf_json_string(out, s, strlen(s));
  } else {
    ti_buf_puts(out, "null");
  }
}

void ti_api_error_write(ti_buf *out, unsigned status, const char *param, const char *code, const char *message) {
  ti_buf_puts(out, "{\"error\":{\"message\":");
  ti_buf_json_string(out, message, strlen(message));
  ti_buf_printf(out, ",\"type\":\"%s\",\"param\":", ti_api_error_type(status));
  put_or_null(out, param);
  ti_buf_puts(out, ",\"code\":");
  put_or_null(out, code);
  ti_buf_puts(out, "}}");
}

unsigned ti_api_status_of(ti_status st) {
  switch (st) {
    case TI_ERR_ARG:
    case TI_ERR_FORMAT:
    case TI_ERR_RANGE:
    case TI_ERR_FULL:
    case TI_ERR_UNSUPPORTED:
      return 400;
    case TI_ERR_NOTFOUND:
      return 404;
    case TI_ERR_CLOSED:
    case TI_ERR_PEER:
    case TI_ERR_NOMEM:
      return 503;
    default:
      return 500;
  }
}

void ti_api_param_of(const char *text, char *out, size_t cap) {
  size_t n = 0;
  while (isalnum((unsigned char)text[n]) || (text[n] && strchr("_.[]", text[n]))) n++;
  const bool is_field = text[n] == ':' && n > 0 && n < cap && strncmp(text, "JSON", n) != 0;
  snprintf(out, cap, "%.*s", is_field ? (int)n : 0, text);
}
