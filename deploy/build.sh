#!/bin/sh
# Builds the program so that the same source and the same Go give the same
# bytes, wherever they are.
#
#   deploy/build.sh [OUT]      writes OUT (./ostiary) and prints its SHA-256
#
# VERSION sets the version it says it is, REVISION the commit if there is no
# Git here. To check a published program: check out its revision, use the Go
# that "ostiary version" names, run this with its VERSION, compare the sums.
set -eu
out=${1:-ostiary}
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")/.."

if [ -z "${REVISION:-}" ]; then
	REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
	if [ "$REVISION" != unknown ] && [ -n "$(git status --porcelain 2>/dev/null)" ]; then
		REVISION=$REVISION-dirty
	fi
fi
set -- -buildid= -X "main.revision=$REVISION"
if [ -n "${VERSION:-}" ]; then
	set -- "$@" -X "github.com/ostiary/ostiary.Version=$VERSION"
fi

# Nothing of the environment may change the bytes, or weaken what is built.
unset GOFLAGS GOEXPERIMENT GODEBUG GOFIPS140
export CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOAMD64=v1 GOARM64=v8.0
go build -trimpath -buildvcs=false -mod=readonly -ldflags "$*" -o "$out" ./cmd/ostiary
sha256sum "$out"
