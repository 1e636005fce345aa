#!/bin/bash
# Any method, any protocol: bash scripts/run.sh METHOD PROTOCOL ... (--help says more)
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$(command -v python || command -v python3)}
[ -n "$python" ] || { echo "error: no python was found; activate its environment, or say in PYTHON where it is" >&2; exit 1; }
PYTHONPATH="$home${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m promptbias experiment "$@"
