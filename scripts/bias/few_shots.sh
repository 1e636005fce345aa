#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" BiasTuning few_shots "$@"  # DATASET [CFG] [KEY VALUE ...]
