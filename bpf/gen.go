// Package bpf holds the C sources of the datapath, the objects that clang makes
// of them, and the bindings generated from those. The objects are committed, so
// that building needs no clang. Packages maps and loader are the only users.
package bpf

//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -type counter -type action -type hardening -type channel_state -type prefix4 -type prefix6 -type port_classes -type entry -type channel -type name_key -type name -type kind -type pools -type datagrams -type opener -output-suffix "" Socket socket.c -- -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v3 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang-19 -strip llvm-strip-19 -no-global-types -type relay_socket -output-suffix "" Packet packet.c -- -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v3 -I/usr/include/x86_64-linux-gnu
