#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" IVLP few_shots "$@"  # DATASET [CFG] [KEY VALUE ...]
