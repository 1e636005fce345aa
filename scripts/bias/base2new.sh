#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" BiasTuning base2new "$@"  # DATASET SHOTS [CFG] [KEY VALUE ...]
