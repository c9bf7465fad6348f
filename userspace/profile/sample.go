package profile

import _ "embed" // for Sample

// Sample is a forwarding profile as the Windows client keeps it, ids blanked.
//
//go:embed testdata/gsa-forwarding-profile.json
var Sample string
