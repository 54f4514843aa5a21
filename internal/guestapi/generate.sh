#!/bin/sh
# Generates agent.pb.go and agent_ttrpc.pb.go from agent.proto. Needs protoc (Debian: protobuf-compiler).
set -eu
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
(cd "$root/tools" && GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc)
PATH=$tools:$PATH protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative agent.proto
