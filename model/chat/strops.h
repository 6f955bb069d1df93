// Operations on strings that filters and methods share. All of Python's semantics: indices are code points, white space is Unicode's.
#ifndef TI_MODEL_CHAT_STROPS_H
#define TI_MODEL_CHAT_STROPS_H
#include "model/chat/interp.h"

// s without the characters of chars (NULL p: white space) at its left and/or right end.
ti_jj_str ti_jj_strip(ti_jj_run *J, ti_jj_str s, ti_jj_str chars, bool left, bool right);
ti_jj_val ti_jj_replace(ti_jj_run *J, ti_jj_str s, ti_jj_str old, ti_jj_str new_text, int64_t count);  // count < 0: all
ti_jj_val ti_jj_upper(ti_jj_run *J, ti_jj_str s);
ti_jj_val ti_jj_lower(ti_jj_run *J, ti_jj_str s);
ti_jj_val ti_jj_capitalize(ti_jj_run *J, ti_jj_str s);
ti_jj_val ti_jj_join(ti_jj_run *J, ti_jj_str sep, ti_jj_val items, ti_jj_val attribute, bool strict);  // strict: items must be strings (str.join)
ti_jj_list *ti_jj_splitlines(ti_jj_run *J, ti_jj_str s, bool keep_ends);
ti_jj_val ti_jj_pad(ti_jj_run *J, ti_jj_str s, int64_t width, ti_jj_str fill, int align);  // align: -1 text left, 0 centre, 1 text right
const char *ti_jj_find(ti_jj_run *J, ti_jj_str hay, ti_jj_str needle);
// Does every (at least one) code point satisfy is?
bool ti_jj_all(ti_jj_run *J, ti_jj_str s, bool (*is)(uint32_t cp));
// str.isupper (upper) and str.islower: some cased letter, none of the other case.
bool ti_jj_all_cased(ti_jj_run *J, ti_jj_str s, bool upper);

#endif
