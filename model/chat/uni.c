// Unicode for the template interpreter: decoding by hand (strings are known to be valid), properties and case from utf8proc's tables. Stateless.
#include "model/chat/uni.h"

#include <utf8proc.h>

bool ti_jj_utf8_valid(const char *s, size_t n) {
  const unsigned char *p = (const unsigned char *)s;
  for (size_t i = 0; i < n;) {
    unsigned c = p[i];
    if (c < 0x80) {
      i++;
      continue;
    }
    size_t k = c >= 0xf0 && c < 0xf5 ? 3 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xc2 && c < 0xe0 ? 1 : 0;
    if (k == 0 || n - i <= k) return false;
    for (size_t j = 1; j <= k; j++)
      if ((p[i + j] & 0xc0) != 0x80) return false;
    if ((c == 0xe0 && p[i + 1] < 0xa0) || (c == 0xed && p[i + 1] >= 0xa0) || (c == 0xf0 && p[i + 1] < 0x90) || (c == 0xf4 && p[i + 1] >= 0x90))
      return false;
    i += k + 1;
  }
  return true;
}

uint32_t ti_jj_utf8_next(const char *s, size_t n, size_t *i) {
  const unsigned char *p = (const unsigned char *)s;
  uint32_t c = p[*i];
  size_t k = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
  if (k == 0 || n - *i <= k) {
    (*i)++;
    return k ? 0xfffd : c;
  }
  c &= 0x3fu >> k;
  for (size_t j = 1; j <= k; j++) c = c << 6 | (p[*i + j] & 0x3f);
  *i += k + 1;
  return c;
}

uint32_t ti_jj_utf8_prev(const char *p, size_t *i) {
  size_t end = *i, at = end - 1;
  while (at > 0 && end - at < 4 && ((unsigned char)p[at] & 0xc0) == 0x80) at--;
  *i = at;
  size_t tmp = at;
  return ti_jj_utf8_next(p, end, &tmp);
}

size_t ti_jj_utf8_put(char out[4], uint32_t cp) {
  if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) cp = 0xfffd;
  if (cp < 0x80) {
    out[0] = (char)cp;
    return 1;
  }
  if (cp < 0x800) {
    out[0] = (char)(0xc0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 0x3f));
    return 2;
  }
  if (cp < 0x10000) {
    out[0] = (char)(0xe0 | cp >> 12);
    out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[2] = (char)(0x80 | (cp & 0x3f));
    return 3;
  }
  out[0] = (char)(0xf0 | cp >> 18);
  out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
  out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
  out[3] = (char)(0x80 | (cp & 0x3f));
  return 4;
}

size_t ti_jj_utf8_len(const char *p, size_t n) {
  size_t k = 0;
  for (size_t i = 0; i < n; i++) k += ((unsigned char)p[i] & 0xc0) != 0x80;
  return k;
}

size_t ti_jj_utf8_offset(const char *p, size_t n, size_t cp) {
  size_t i = 0;
  for (; i < n; i++)
    if (((unsigned char)p[i] & 0xc0) != 0x80 && cp-- == 0) return i;
  return n;
}

bool ti_jj_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool ti_jj_is_digit(uint32_t c) { return c < 0x80 ? c >= '0' && c <= '9' : utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND; }

bool ti_jj_is_alpha(uint32_t c) {
  if (c < 0x80) return (c | 32) >= 'a' && (c | 32) <= 'z';
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool ti_jj_is_upper(uint32_t c) { return c < 0x80 ? c >= 'A' && c <= 'Z' : utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU; }

bool ti_jj_is_lower(uint32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z';
  return c == 0xaa || c == 0xba || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LL;
}

uint32_t ti_jj_to_upper(uint32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  return (uint32_t)utf8proc_toupper((utf8proc_int32_t)c);
}

uint32_t ti_jj_to_lower(uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

// Not printable in Python: controls, format characters, surrogates, private use, unassigned and every separator but ' '.
bool ti_jj_is_printable(uint32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7f;
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return k != UTF8PROC_CATEGORY_CN && (k < UTF8PROC_CATEGORY_ZS || k > UTF8PROC_CATEGORY_CO);
}
