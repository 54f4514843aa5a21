// Package api is the contract between a monitor and its clients on the host (monitor.proto).
package api
