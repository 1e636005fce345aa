#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" BiasTuning dg "$@"  # SHOTS [CFG] [KEY VALUE ...]
