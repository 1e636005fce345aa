#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" IVLP xd "$@"  # SHOTS [CFG] [KEY VALUE ...]
