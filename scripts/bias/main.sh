#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" BiasTuning main "$@"  # DATASET SHOTS [CFG] [KEY VALUE ...]
