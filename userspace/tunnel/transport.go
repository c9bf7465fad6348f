package tunnel

// Transport says which versions of HTTP a tunnel speaks.
type Transport string

// The transports. The empty one is TransportAuto.
const (
	// TransportAuto takes for TCP what the edge chooses in its TLS handshake,
	// or HTTP/3 if it announces that and prefers it. UDP goes over HTTP/3
	// where the edge announces it and QUIC gets through, else over HTTP/2.
	TransportAuto Transport = "auto"

	TransportHTTP1 Transport = "http1" // no UDP
	TransportHTTP2 Transport = "h2"    // also for UDP
	TransportHTTP3 Transport = "h3"    // also where it has not been announced
)
