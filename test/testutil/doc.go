// Package testutil gives tests a world of their own: network namespaces,
// cgroups, a BPF filesystem, processes inside them, peers to talk to, and
// proofs that nothing outside was touched and nothing was left behind.
//
// Whatever it makes is removed by the test's Cleanup. A nil
// [netns.Namespace] stands for the namespace of the test itself, and an empty
// cgroup path for the cgroup of the test itself.
package testutil
