# Sourced by the launchers and tests/run.sh: afterwards `python` has the packages of requirements.txt.
#
#   VENV=DIR            use this virtual environment; it is made or completed if necessary
#   USE_ACTIVE_ENV=1    use the active Python unchecked (other versions, the torch of a GPU server)
#
# Otherwise: the active Python if it satisfies requirements.txt, else .venv in the project's folder, made on first use.

_has_requirements() { # PYTHON -> status 0 if every pinned package has its version; else names the first that has not
    "$1" - requirements.txt 2>/dev/null <<'PY'
import sys
from importlib import metadata

for line in open(sys.argv[1], encoding="utf-8"):
    requirement = line.partition("#")[0].strip()
    if not requirement:
        continue
    name, _, wanted = requirement.partition("==")
    try:
        found = metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        sys.exit(f"{name} is not installed")
    if found != wanted:
        sys.exit(f"{name} is {found}, not {wanted}")
PY
}

_supported_python() { # first Python 3.10-3.12 on PATH that can make virtual environments
    local candidate
    for candidate in python3 python3.11 python3.12 python3.10 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "error: no Python 3.10, 3.11 or 3.12 with venv on PATH (Debian: apt-get install python3-venv)" >&2
    return 1
}

_use_venv() { # DIR: make and fill it where needed, then activate it
    local dir=$1 base
    if [[ ! -x "$dir/bin/python" ]]; then
        base=$(_supported_python) || return 1
        echo "Making the environment $dir with $("$base" --version) ..." >&2
        "$base" -m venv "$dir" || return 1
    fi
    if ! _has_requirements "$dir/bin/python"; then
        echo "Installing requirements.txt into $dir: once, about 3 GB to download, 7 GB on disk ..." >&2
        "$dir/bin/python" -m pip install --disable-pip-version-check --progress-bar on -r requirements.txt >&2 || {
            echo "error: the installation stopped; call again to continue it" >&2
            return 1
        }
    fi
    # shellcheck disable=SC1091
    source "$dir/bin/activate"
}

_find_environment() {
    local active
    active=$(command -v python || command -v python3 || true)
    if [[ -n "${VENV:-}" ]]; then
        _use_venv "$VENV" || return 1
    elif [[ -n "$active" ]] && { [[ -n "${USE_ACTIVE_ENV:-}" ]] || _has_requirements "$active"; }; then
        if [[ "$(basename "$active")" == python3 ]]; then
            python() { python3 "$@"; }
        fi
    else
        _use_venv .venv || return 1
    fi
}

_check_opencv() {
    local message
    if ! message=$(python -c 'import cv2' 2>&1) && [[ "$message" == *"cannot open shared object file"* ]]; then
        echo "error: OpenCV cannot load a system library: ${message##*ImportError: }" >&2
        echo "       Debian/Ubuntu: apt-get install -y libgl1 libglib2.0-0    Fedora: dnf install mesa-libGL glib2" >&2
        return 1
    fi
}

_find_environment || exit 1
_check_opencv || exit 1
