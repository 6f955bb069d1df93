// Operations on strings that filters and methods share. All of Python's semantics: indices are code points, white space is Unicode's.
#ifndef TI_MODEL_CHAT_STROPS_H
#define TI_MODEL_CHAT_STROPS_H
#include "model/chat/interp.h"

// s without the characters of chars (NULL p: white space) at its left and/or right end.
jj_str jj_strip(jj_run *J, jj_str s, jj_str chars, bool left, bool right);
jj_val jj_replace(jj_run *J, jj_str s, jj_str old, jj_str new_text, int64_t count);  // count < 0: all
jj_val jj_upper(jj_run *J, jj_str s);
jj_val jj_lower(jj_run *J, jj_str s);
jj_val jj_capitalize(jj_run *J, jj_str s);
jj_val jj_join(jj_run *J, jj_str sep, jj_val items, jj_val attribute, bool strict);  // strict: items must be strings (str.join)
jj_list *jj_splitlines(jj_run *J, jj_str s, bool keep_ends);
jj_val jj_pad(jj_run *J, jj_str s, int64_t width, jj_str fill, int align);  // align: -1 text left, 0 centre, 1 text right
const char *jj_find(jj_run *J, jj_str hay, jj_str needle);
// Does every (at least one) code point satisfy is?
bool jj_all(jj_run *J, jj_str s, bool (*is)(uint32_t cp));
// str.isupper (upper) and str.islower: some cased letter, none of the other case.
bool jj_all_cased(jj_run *J, jj_str s, bool upper);

#endif
