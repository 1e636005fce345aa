#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" IVLP dg "$@"  # SHOTS [CFG] [KEY VALUE ...]
