#!/usr/bin/env python3
"""The house's rules that a machine can check (CONTRIBUTING.md). No whitelist: a file that needs one needs another shape.

  lint.py [ROOT]       checks every .c, .h, .cu and .cuh below ROOT; one line a finding, exit status 1 if there are any
  lint.py --self-test  proves that every rule fires on a bad sample and stays silent on a good one

Standard library only. Code is looked at with comments and string contents blanked out, except by the rule about leftover marks.
"""
import os
import re
import sys
import tempfile

FILE_LINES = 1000
FUNCTION_LINES = 120
SUFFIXES = (".c", ".h", ".cu", ".cuh")
SKIPPED_DIRS = {"build", ".git", ".carry", "__pycache__"}
BANNED = "strcpy strcat sprintf vsprintf gets atoi atol atof rand srand strtok".split()
MARKS = "TODO FIXME XXX HACK".split()
# The arrows of docs/architecture.md: which rooms a room may include, besides itself. Folders that are no rooms (tests, benchmarks) see all.
ARROWS = {
    "base": set(),
    "proto": {"base"},
    "model": {"base"},
    "kernels": {"base"},
    "parallel": {"base", "proto", "model", "kernels"},
    "worker": {"base", "proto", "model", "kernels", "parallel"},
    "coordinator": {"base", "proto", "model"},
    "client": {"base", "proto"},
    "client/tool": {"base", "proto", "model"},  # the titan command works offline, too; libtitan stays without model
    "launch": {"base", "proto", "model", "kernels", "parallel", "worker", "coordinator", "client"},
}

TOKEN = re.compile(r'//(?:\\\n|[^\n])*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
BANNED_CALL = re.compile(r"(?<![\w.>])(%s)\s*\(" % "|".join(BANNED))
MARK = re.compile(r"\b(%s)\b" % "|".join(MARKS))
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.M)
DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.M)


def blank(m):
    """A comment becomes spaces, a literal keeps its quotes; newlines stay, so that line numbers do."""
    s = m.group(0)
    gap = re.sub(r"[^\n]", " ", s)
    return gap if s[0] == "/" else s[0] + gap[1:-1] + s[-1]


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def functions(code):
    """(first line, name, number of lines) of every function definition. At file level a brace opens a function when the text before it, from the
    last ';' or '}' on, has a parameter list and no '='; a '}' in column 0 closes it whatever the preprocessor did to the count."""
    code = DIRECTIVE.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), code)
    code = re.sub(r'extern\s+" *"\s*\{', lambda m: re.sub(r"[^\n]", " ", m.group(0)), code)
    depth, head_at, opened = 0, 0, None
    for m in re.finditer(r"[{};]", code):
        c, at = m.group(0), m.start()
        if c == "{":
            if depth == 0:
                head = code[head_at:at]
                name = re.search(r"(\w+)\s*\(", head)
                start = head_at + len(head) - len(head.lstrip())
                opened = (line_of(code, start), name.group(1)) if name and ")" in head and "=" not in head else None
            depth += 1
        elif c == "}":
            depth = 0 if at == 0 or code[at - 1] == "\n" else max(depth - 1, 0)
            if depth == 0:
                if opened:
                    yield opened[0], opened[1], line_of(code, at) - opened[0] + 1
                opened, head_at = None, at + 1
        elif depth == 0:
            head_at = at + 1


def check(path, text):
    """Findings of one file: (line, text). path is relative to the root, with '/'."""
    code = TOKEN.sub(blank, text)
    found = []
    lines = text.count("\n") + (0 if text.endswith("\n") or not text else 1)
    if lines > FILE_LINES:
        found.append((lines, "file of %d lines, at most %d" % (lines, FILE_LINES)))
    for line, name, n in functions(code):
        if n > FUNCTION_LINES:
            found.append((line, "function %s of %d lines, at most %d" % (name, n, FUNCTION_LINES)))
    for m in BANNED_CALL.finditer(code):
        found.append((line_of(code, m.start()), "banned function %s" % m.group(1)))
    for m in MARK.finditer(text):
        found.append((line_of(text, m.start()), "leftover mark %s" % m.group(1)))
    room = path.split("/")[0]
    sees = ARROWS.get(os.path.dirname(path), ARROWS.get(room))
    if room in ARROWS:
        for m in INCLUDE.finditer(text):
            other = m.group(1)
            if other != room and other in ARROWS and other not in sees:
                allowed = ", ".join(sorted(sees)) or "no other room"
                found.append((line_of(text, m.start()), 'include "%s/..." against the arrows: %s sees %s' % (other, room, allowed)))
    return found


def check_tree(root):
    found = []
    for folder, dirs, files in os.walk(root):
        dirs[:] = sorted(d for d in dirs if d not in SKIPPED_DIRS)
        for f in sorted(files):
            if not f.endswith(SUFFIXES):
                continue
            full = os.path.join(folder, f)
            path = os.path.relpath(full, root).replace(os.sep, "/")
            with open(full, encoding="utf-8", errors="replace") as fd:
                found += [(path, line, what) for line, what in check(path, fd.read())]
    return found


def self_test():
    def function(n):
        return "static int f(int a,\n             int b) {\n" + "  a++;\n" * (n - 3) + "}\n"

    bad = [("base/a.c", "int x;\n" * 1001, "file of 1001 lines"),
           ("base/a.c", function(121), "function f of 121 lines"),
           ("kernels/cuda/a.cu", 'extern "C" {\n' + function(121) + "}\n", "function f of 121 lines"),
           ("base/a.c", "#if X\nvoid g(void) {\n#else\nvoid g(int a) {\n#endif\n}\n" + function(121), "function f of 121 lines"),
           ("base/a.h", '#include "proto/wire.h"\n', "base sees no other room"),
           ("coordinator/cache/a.c", 'int a;\n  #  include "worker/engine.h"\n', "coordinator sees base, model, proto"),
           ("worker/a.c", '#include "coordinator/loop.h"\n', "against the arrows"),
           ("client/a.c", '#include "model/config.h"\n', "against the arrows"),
           ("client/tool/a.c", '#include "worker/engine.h"\n', "client sees base, model, proto")]
    bad += [("tests/a.c", "int f(void) { return (int)%s (p); }\n" % name, "banned function %s" % name) for name in BANNED]
    bad += [("benchmarks/a.cuh", "// %s: later\n" % mark, "leftover mark %s" % mark) for mark in MARKS]
    good = [("base/a.c", "int x;\n" * 1000), ("base/a.c", function(120)),
            ("base/a.c", "static const int t[] = {\n" + "  1,\n" * 200 + "};\nstruct s {\n" + "  int a;\n" * 200 + "};\n"),
            ("base/a.c", "#define M(x) \\\n  do { \\\n" + "    x; \\\n" * 200 + "  } while (0)\n"),
            ("base/a.c", '/* strcpy(a) */ // rand()\nconst char *s = "gets(x) \\" atoi(x)"; char c = \'"\'; // sprintf(x)\n'),
            ("base/a.c", "snprintf(a); my_rand(b); o->rand(c); mkstemp(tXXXXXX);\n"),
            ("worker/a.c", '#include "base/x.h"\n#include "parallel/coll.h"\n#include "worker/slots.h"\n#include <model/x.h>\n'),
            ("client/tool/a.c", '#include "model/config.h"\n'),
            ("launch/a.c", '#include "worker/x.h"\n#include "coordinator/x.h"\n'), ("tests/a.c", '#include "worker/x.h"\n')]
    failed = 0
    for path, text, want in bad:
        with tempfile.TemporaryDirectory() as root:
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full))
            with open(full, "w", encoding="utf-8") as f:
                f.write(text)
            got = check_tree(root)
        if len(got) != 1 or want not in got[0][2]:
            failed += 1
            print("self-test: wanted '%s', got %s for:\n%s" % (want, got, text[:200]))
    for path, text in good:
        got = check(path, text)
        if got:
            failed += 1
            print("self-test: wanted nothing, got %s for:\n%s" % (got, text[:200]))
    print("self-test: %d bad and %d good samples, %d wrong" % (len(bad), len(good), failed))
    return 1 if failed else 0


def main(argv):
    if argv[1:] == ["--self-test"]:
        return self_test()
    if len(argv) > 2 or (len(argv) == 2 and argv[1].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    root = argv[1] if len(argv) == 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    found = check_tree(root)
    for path, line, what in found:
        print("%s:%d: %s" % (path, line, what))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
