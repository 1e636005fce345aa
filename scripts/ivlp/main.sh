#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" IVLP main "$@"  # DATASET SHOTS [CFG] [KEY VALUE ...]
