// Package bench is a module of its own that measures Headgate beside rivals
// whose modules must not enter Headgate's go.mod: a user who imports or builds
// Headgate downloads none of them. It owns comparisons only, a folder each;
// what needs no rival is measured beside the code, in the main module. Nothing
// imports it, and it has no tests, only benchmarks:
//
//	make bench PKG=./telemetry/...   # the main module's, then all of these
//	cd bench && go test -run '^$' -bench . ./ingest
package bench
