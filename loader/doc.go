// Package loader changes kernel state and nothing else does: it loads the
// datapath, attaches it to a cgroup, pins it, takes over what an earlier agent
// left, and removes every trace.
package loader
