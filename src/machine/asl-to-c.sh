#!/bin/sh
# SPDX-License-Identifier: MIT
# Compile ACPI source to a C array: asl-to-c.sh INPUT.asl OUTPUT.c NAME. Warnings are errors.
set -eu
aml=$2.aml
log=$(iasl -we -p "$aml" "$1" 2>&1) || { printf '%s\n' "$log" >&2; exit 1; }
{
	echo "/* Compiled from ${1##*/} by iasl: do not edit. */"
	echo '#include "machine/dsdt.h"'
	echo "const unsigned char $3[] = {"
	od -An -v -tx1 "$aml" | sed 's/ \(..\)/0x\1,/g'
	echo '};'
	echo "const size_t $3_size = sizeof($3);"
} >"$2"
