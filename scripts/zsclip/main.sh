#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" ZeroshotCLIP main "$@"  # DATASET [CFG] [KEY VALUE ...]
