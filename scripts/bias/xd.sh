#!/bin/bash
exec bash "$(dirname "$0")/../run.sh" BiasTuning xd "$@"  # SHOTS [CFG] [KEY VALUE ...]
