# SPDX-License-Identifier: MIT
# Sourced by the other scripts: messages, and the place where downloaded and built things are kept.

root=$(cd "$(dirname "$0")/.." && pwd)

# Everything is kept under one directory outside the source tree, if there is a home to keep it in.
if [ -n "${LODGE_CACHE:-}" ]; then
	cache=$LODGE_CACHE
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
	cache=$XDG_CACHE_HOME/lodge
elif [ -n "${HOME:-}" ] && [ -w "$HOME" ]; then
	cache=$HOME/.cache/lodge
else
	cache=$root/cache
fi
mkdir -p "$cache"

say() {
	echo "lodge: $*" >&2
}

die() {
	say "error: $*"
	exit 1
}

# One at a time: `exclusively NAME` waits until no other script holds NAME, and holds it until this script ends.
exclusively() {
	exec 9>"$cache/$1.lock"
	flock -w 1800 9 || die "another script has held $cache/$1.lock for half an hour"
}
