#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" IVLP base2new "$@"  # DATASET SHOTS [CFG] [KEY VALUE ...]
