//go:build tools

// Package tools names the etcd server of the development control plane, so that go.sum pins what it is built from.
package tools

import _ "go.etcd.io/etcd/server/v3"
