# What the scripts share; sourced, never run. Bash 3.2 (macOS) is enough.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The one list of packages. libclang-rt-19-dev (sanitisers, fuzzers) is wanted by `scripts/test --full`
# alone, clang-format by `scripts/dev`.
debian_packages=(
  clang-19 lld-19 cmake ninja-build ccache pkg-config
  libboost1.81-dev libboost-json1.81-dev libspdlog-dev libfmt-dev
  libpcre2-dev libutf8proc-dev libcli11-dev libtomlplusplus-dev libhwloc-dev libsqlite3-dev libedit-dev libgtest-dev
  libprotobuf-dev protobuf-compiler libssl-dev
  python3 xz-utils
)
debian_packages_full=(libclang-rt-19-dev llvm-19)
debian_packages_format=(clang-format-19 git)
brew_packages=(llvm cmake ninja ccache pkg-config boost spdlog fmt pcre2 utf8proc cli11 tomlplusplus hwloc sqlite libedit googletest protobuf openssl@3)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Installs what is missing of the named Debian packages; asks nothing of the network when all is there.
need_debian_packages() {
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "these packages are missing, and this user can neither be root nor sudo:
  ${missing[*]}
Let an administrator run: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing ${missing[*]}"
  # A foreign source that cannot be read need not stop us: the install below says what is really missing.
  ${as_root[@]+"${as_root[@]}"} apt-get update -qq || say "warning: apt-get update met errors; trying to install all the same"
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install: ${missing[*]} (Debian 12 has them all)"
}

need_brew_packages() {
  command -v brew >/dev/null || die "Homebrew is needed for the dependencies: https://brew.sh"
  local missing=() package have
  have=$(brew list --formula -1)
  for package in "$@"; do
    printf '%s\n' "$have" | grep -qx "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] || brew install "${missing[@]}"
}

# need_packages [full] [format]: the base list, and these beside it.
need_packages() {
  if [ "$(uname -s)" = Darwin ]; then
    need_brew_packages "${brew_packages[@]}"
    # Apple's own clang lacks parts of C++20 that the code uses.
    export CXX=${CXX:-$(brew --prefix llvm)/bin/clang++}
    export OPENSSL_ROOT_DIR=${OPENSSL_ROOT_DIR:-$(brew --prefix openssl@3)}  # not in the usual places
    return
  fi
  if ! command -v apt-get >/dev/null; then
    say "warning: no apt-get here. The build needs, by Debian's names: ${debian_packages[*]}"
    return 0
  fi
  local wanted=("${debian_packages[@]}") extra
  for extra in "$@"; do
    case $extra in
      full) wanted+=("${debian_packages_full[@]}") ;;
      format) wanted+=("${debian_packages_format[@]}") ;;
    esac
  done
  need_debian_packages "${wanted[@]}"
}

# need_mlx: fetches the library MLX for `--with mlx` and sets mlx_option for cmake. On a Mac Homebrew's; elsewhere
# PyPI's packages in build/mlx (glibc 2.35 or later), of the CUDA build where an NVIDIA driver is loaded.
# Asks nothing of the network when they are there.
mlx_version=0.32.4
need_mlx() {
  if [ "$(uname -s)" = Darwin ]; then
    need_brew_packages mlx
    mlx_option=-DIMPETUS_MLX=ON
    return
  fi
  local venv=$root/build/mlx kind=mlx-cpu
  [ ! -e /proc/driver/nvidia/version ] || kind=mlx-cuda-13
  if [ "$(cat "$venv/installed" 2>/dev/null)" != "$kind $mlx_version" ]; then
    ! command -v apt-get >/dev/null || need_debian_packages python3-venv
    say "Fetching MLX $mlx_version ($kind) into build/mlx"
    rm -rf "$venv"
    mkdir -p "$root/build"
    python3 -m venv "$venv" >&2 || die "python3 cannot make an environment at $venv (python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
      "mlx==$mlx_version" "$kind==$mlx_version" >&2 ||
      { say "error: MLX cannot be fetched: no package registry can be reached, or it has no mlx and $kind $mlx_version for
  $("$venv/bin/python" -V) on $(uname -m). Without --with mlx everything but this backend is built;
  a copy of PyPI's folder mlx from elsewhere does as well: cmake -DIMPETUS_MLX=FOLDER"
        exit 69; }  # sysexits' EX_UNAVAILABLE
    echo "$kind $mlx_version" >"$venv/installed"
  fi
  mlx_option=-DIMPETUS_MLX=$("$venv/bin/python" -c 'import importlib.util as u; print(list(u.find_spec("mlx").submodule_search_locations)[0])')
}

# with_option "$@": takes a leading `--with mlx` off the arguments: sets `taken` to how many it took.
with_option() {
  taken=0
  [ "${1:-}" = --with ] || return 0
  [ "${2:-}" = mlx ] || die "--with takes mlx"
  need_mlx
  taken=2
}

processors() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2; }

# Compilers of templates take up to 2 GB each: as many jobs as both processors and memory allow.
build_jobs() {
  local jobs memory
  jobs=$(processors)
  if [ -r /proc/meminfo ]; then
    memory=$(awk '/^MemAvailable/ { print int($2 / 1.5e6) }' /proc/meminfo)
    [ "$memory" -ge 1 ] || memory=1
    [ "$jobs" -le "$memory" ] || jobs=$memory
  fi
  echo "$jobs"
}

# build_in FOLDER [-DOPTION=VALUE...] [-- TARGET...]
build_in() {
  local folder=$1 options=() targets=()
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  while [ $# -gt 0 ]; do targets+=(--target "$1"); shift; done
  if [ ! -f "$folder/build.ninja" ]; then
    cmake -S "$root" -B "$folder" -G Ninja ${options[@]+"${options[@]}"} >"$folder.configure.log" 2>&1 ||
      { cat "$folder.configure.log" >&2; die "cmake could not configure $folder"; }
    mv "$folder.configure.log" "$folder/configure.log"
  fi
  # MLX may come to a build that was made without it.
  if [ -n "${mlx_option:-}" ] && ! grep -qxF "${mlx_option/#-DIMPETUS_MLX=/IMPETUS_MLX:STRING=}" "$folder/CMakeCache.txt"; then
    cmake "$mlx_option" -UIMPETUS_MLX_LIBRARY "$folder" >"$folder/configure.log" 2>&1 ||
      { cat "$folder/configure.log" >&2; die "cmake could not configure $folder with MLX"; }
  fi
  cmake --build "$folder" -j "$(build_jobs)" ${targets[@]+"${targets[@]}"} >&2
}

# suite FOLDER [ctest options]: runs its tests, and ends with one line `N passed, N failed, N skipped`
# over the single test cases (ctest itself counts whole folders).
suite() {
  local folder=$1 status=0
  shift
  ctest --test-dir "$folder" --output-on-failure --no-tests=error -j "$(processors)" "$@" || status=$?
  local log=$folder/Testing/Temporary/LastTest.log
  [ -f "$log" ] || return 1
  awk -v status="$status" -v data="$(test_data)" '
    /^Test (Passed|Failed)/ { if (!cases) { if ($2 == "Passed.") passed++; else failed++ } cases = 0 }
    /^\[       OK \] / { passed++; cases++ }
    /^\[  SKIPPED \] [^ ]+ \([0-9]+ ms\)/ { skipped++; cases++ }
    /^\[  FAILED  \] .* \([0-9]+ ms\)$/ { failed++; cases++ }
    END {
      if (status != 0 && !failed) failed = 1  # a crash or a time-out has no line of its own
      if (skipped) {
        printf "%d tests skipped%s\n", skipped, system("test -d \"" data "\"") ? ": the data folder " data " is absent" : " (their output says why)"
      }
      printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    }' "$log"
  return "$status"
}

test_data() { echo "${IMPETUS_TEST_DATA:-$root/../shared/data}"; }

# `part NAME COMMAND...` runs and times the command, and does not end the script when it fails;
# parts_end prints them all and fails when one did.
part_lines=()
part_passed=0
part_failed=0
part() {
  local name=$1 start=$SECONDS status took
  shift
  printf '\n=== %s\n' "$name"
  set +e
  (set -e; "$@")  # a subshell, and not behind `||`, or `set -e` would mean nothing in it
  status=$?
  set -e
  took=$((SECONDS - start))
  if [ "$status" = 0 ]; then
    part_passed=$((part_passed + 1))
    part_lines+=("$(printf 'ok      %5d s  %s' "$took" "$name")")
  else
    part_failed=$((part_failed + 1))
    part_lines+=("$(printf 'FAILED  %5d s  %s (status %d)' "$took" "$name" "$status")")
  fi
}
part_not_run() {
  part_lines+=("$(printf 'NOT RUN          %s' "$*")")
  printf '\n=== NOT RUN: %s\n' "$*"
}
parts_end() {
  printf '\n'
  printf '%s\n' ${part_lines[@]+"${part_lines[@]}"}
  [ "$part_failed" = 0 ]
}
