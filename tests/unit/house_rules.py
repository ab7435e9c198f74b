#!/usr/bin/env python3
"""The house rules that a compiler does not check. Prints one line per breach; exit 1 when there is one.

  core        broker/core sees common/vocabulary, itself and the standard library: no clock, thread, file, random device, exception
  executors   worker/child and worker/executors build without ZeroMQ, Asio, Redis, msgpack and without anything of ours above them
  links       a CMake target links only what its folder may depend on (the graph is written when CMake configures)
  top level   nothing lies at the top that is not on the list
  public      the client's public headers include nothing but themselves and the standard library
  errors      common/vocabulary/errors.h and the table in ARCHITECTURE.md name the same codes
  own needs   a file that uses one of WHENCE includes its header, itself or by a header of ours: what one compiler's standard library
              brings along by chance, another's does not (GCC 13 no longer brings <cstdint>, and a GPU machine has the newer one)
"""
import argparse
import pathlib
import re
import subprocess
import sys

TOP_LEVEL = {"CMakeLists.txt", "CMakePresets.json", "dev", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "LICENSE",
             "broker", "worker", "client", "common", "deploy", "tests"}
SOURCES = {".h", ".hpp", ".cpp", ".cc", ".c", ".cu", ".cuh"}
STANDARD = set("""algorithm any array atomic barrier bit bitset charconv chrono cassert cctype cerrno cfloat cinttypes climits cmath
codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdarg cstddef cstdint cstdio cstdlib cstring ctime
cuchar cwchar deque exception execution filesystem format forward_list fstream functional future initializer_list iomanip ios iosfwd
iostream istream iterator latch limits list locale map memory memory_resource mutex new numbers numeric optional ostream queue random
ranges ratio regex scoped_allocator semaphore set shared_mutex source_location span sstream stack stdexcept stop_token streambuf
string string_view syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray
variant vector version""".split())
# The standard library, less what would let the world in.
CORE_STANDARD = STANDARD - set("""atomic barrier chrono condition_variable coroutine csetjmp csignal cstdio ctime exception execution
filesystem fstream future iostream latch locale mutex random semaphore shared_mutex stdexcept stop_token syncstream system_error
thread""".split())
CORE_WORDS = [(r"\bnow\s*\(\s*\)", "reads a clock"), (r"\bthrow\b", "throws"), (r"\brandom_device\b|\bs?rand\s*\(", "draws a random number"),
              (r"\bgetenv\s*\(|\bfopen\s*\(|\bprintf\s*\(", "touches the world"), (r"\bgq::(wire|net|store|log)\b|\blog::", "reaches above itself")]
BARE_BANNED = r"^(zmq|boost/|asio|hiredis|msgpack|spdlog|openssl/|CLI/|toml|sodium)"

# folder of a target -> folders whose targets it may link (its own folder is always allowed)
MAY_LINK = {
    "common/vocabulary": [],
    "common": ["common"],
    "broker/core": ["common/vocabulary"],
    "broker/policy": ["broker/core", "common"],
    "broker/store": ["broker/core", "common"],
    "broker/shell": ["broker", "common"],
    "worker/child": ["common/vocabulary"],
    "worker/executors": ["worker/child", "common/vocabulary", "common/image"],
    "worker/session": ["common"],
    "worker/runtime": ["worker/session", "worker/child", "common"],
    "client": ["client", "common"],
    "deploy": ["client", "deploy", "common"],
    "tests": ["broker", "worker", "client", "common", "deploy", "tests"],
}

WHENCE = {
    "cstdint": r"\bstd::u?int(8|16|32|64)_t\b",
    "algorithm": r"\bstd::(sort|stable_sort|min|max|clamp|find_if|any_of|all_of|none_of|copy|transform|fill|replace|lower_bound|upper_bound)\(",
    "chrono": r"\bstd::chrono::",
    "cmath": r"\bstd::(isfinite|round|floor|ceil|pow|sqrt|log2?|exp|fabs)\(",
    "cstdio": r"\bstd::(printf|fprintf|snprintf|rename)\(",
    "cstdlib": r"\bstd::(getenv|strtoll?|atoi|abort|system)\(",
    "cstring": r"\bstd::(memcpy|memcmp|memset|strlen|strerror|strncmp)\(",
    "functional": r"\bstd::function<",
    "stdexcept": r"\bstd::(runtime_error|logic_error|invalid_argument|out_of_range)\b",
    "vector": r"\bstd::vector<",
}


def without_comments(text):
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r'"(\\.|[^"\\\n])*"', lambda m: m.group(0) if m.group(0).count("/") or m.group(0).endswith('.h"') else '""', text)
    return re.sub(r"//[^\n]*", " ", text)


def sources(root, folder):
    base = root / folder
    return sorted(p for p in base.rglob("*") if p.suffix in SOURCES) if base.is_dir() else []


def includes(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if found:
            yield number, found.group(1) == "<", found.group(2)


def core(root):
    for path in sources(root, "broker/core"):
        where = path.relative_to(root)
        for number, angle, name in includes(path):
            if angle and name not in CORE_STANDARD:
                yield f"{where}:{number}: the core may not include <{name}>"
            if not angle and not name.startswith(("common/vocabulary/", "broker/core/")):
                yield f"{where}:{number}: the core may not include \"{name}\""
        text = re.sub(r'^\s*#\s*include.*$', "", without_comments(path.read_text(encoding="utf-8")), flags=re.M)
        for pattern, what in CORE_WORDS:
            for found in re.finditer(pattern, text):
                yield f"{where}: the core {what}: {found.group(0)!r}"


def executors(root):
    for folder, own in (("worker/child", ("worker/child/",)), ("worker/executors", ("worker/child/", "worker/executors/", "common/image/"))):
        for path in sources(root, folder):
            for number, angle, name in includes(path):
                where = f"{path.relative_to(root)}:{number}"
                if re.match(BARE_BANNED, name):
                    yield f"{where}: {folder} must build without <{name}>"
                elif re.match(r"(common|broker|worker|client|deploy|tests)/", name) and not name.startswith(own + ("common/vocabulary/",)):
                    yield f"{where}: {folder} may not include \"{name}\""


def folder_rule(folder):
    best = max((k for k in MAY_LINK if folder == k or folder.startswith(k + "/")), key=len, default=None)
    return best


def links(root, graph):
    targets = {}
    for line in graph.read_text(encoding="utf-8").splitlines():
        name, folder, libraries = (line.split("|") + ["", ""])[:3]
        targets[name] = (folder, [lib for lib in libraries.split(";") if lib])
    if len(targets) < 1:
        yield f"{graph}: no target in the link graph"
    for name, (folder, libraries) in targets.items():
        rule = folder_rule(folder)
        if rule is None:
            if folder not in ("", ".") and name != "gpuq_options":
                yield f"target {name} lies in {folder}, for which there is no rule"
            continue
        for library in libraries:
            library = re.sub(r"^\$<LINK_ONLY:(.*)>$", r"\1", library)
            library = {"gpuq::client": "gpuq_client"}.get(library, library)
            if library == "gpuq_options":
                continue
            if library not in targets:
                third = re.sub(r"\$<.*?:|>", "", library)
                if rule in ("broker/core", "common/vocabulary") and third and not third.startswith("tl::expected"):
                    yield f"{name} ({folder}) links {library}: it may use the standard library only"
                if rule in ("worker/child", "worker/executors") and re.search(r"zmq|hiredis|msgpack|boost|asio|spdlog", third, re.I):
                    yield f"{name} ({folder}) links {library}: it must build on a bare GPU machine"
                continue
            theirs = targets[library][0]
            if theirs == folder or any(theirs == ok or theirs.startswith(ok + "/") for ok in MAY_LINK[rule]):
                continue
            yield f"{name} ({folder}) links {library} ({theirs}): {rule} may depend on {', '.join(MAY_LINK[rule]) or 'nothing of ours'}"


def top_level(root):
    listed = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True)
    names = {line.split("/")[0] for line in listed.stdout.splitlines()} if listed.returncode == 0 and listed.stdout else \
            {p.name for p in root.iterdir() if p.name != "build"}
    for name in sorted(names):
        if name not in TOP_LEVEL and not name.startswith("."):
            yield f"{name}: not on the list of what may lie at the top"


def public(root):
    for path in sources(root, "client/include"):
        for number, angle, name in includes(path):
            if not (name.startswith("gpuq/") or (angle and name in STANDARD)):
                yield f"{path.relative_to(root)}:{number}: a public header shows <{name}>"


def errors(root):
    header, page = root / "common/vocabulary/errors.h", root / "ARCHITECTURE.md"
    if not header.is_file() or not page.is_file():
        return
    in_code = set(re.findall(r'X\(\w+,\s*"([A-Z_]+)"', header.read_text(encoding="utf-8")))
    # The page's table of codes: every row that begins with a code in back quotes.
    on_page = set(re.findall(r"^\|\s*`([A-Z][A-Z_]+)`", page.read_text(encoding="utf-8"), flags=re.M))
    for code in sorted(in_code - on_page):
        yield f"ARCHITECTURE.md does not explain the error code {code} (a row '| `{code}` | …')"
    for code in sorted(on_page - in_code):
        yield f"ARCHITECTURE.md explains {code}, which common/vocabulary/errors.h does not have"


def own_needs(root):
    text = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for folder in ("broker", "worker", "client", "common", "tests")
            for path in sources(root, folder)}
    ours = {name: re.findall(r'^\s*#\s*include\s*"([^"]+)"', body, flags=re.M) for name, body in text.items()}
    theirs = {name: set(re.findall(r"^\s*#\s*include\s*<([a-z_0-9]+)>", body, flags=re.M)) for name, body in text.items()}
    for name, body in text.items():
        reached, left = set(), [name]
        while left:
            one = left.pop()
            if one in ours and one not in reached:
                reached.add(one)
                left += ours[one] + [f"client/include/{other}" for other in ours[one]]   # the public headers' own root
        there = set().union(*(theirs[one] for one in reached))
        bare = without_comments(body)
        for header, pattern in WHENCE.items():
            found = header not in there and re.search(pattern, bare)
            if found:
                yield f"{name} uses {found.group(0).rstrip('(<')} and includes no <{header}>"


def complaints(root, graph):
    rules = {"core": core, "executors": executors, "top level": top_level, "public": public, "errors": errors, "own needs": own_needs}
    for name, rule in rules.items():
        for text in rule(root):
            yield f"[{name}] {text}"
    if graph is not None:
        for text in links(root, graph):
            yield f"[links] {text}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--links", type=pathlib.Path, help="the link graph that CMake wrote")
    options = parser.parse_args()
    found = list(complaints(options.root, options.links))
    for text in found:
        print(text)
    print(f"{len(found)} breaches" if found else "the house is in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
