// Package enrol says who an agent or a client is: a small certificate authority that the
// owner of the machines keeps ([Authority]), and what it certified, kept fresh
// ([Identity]). Here live tokens, certificates, their renewal and revocation. What a
// certificate opens is package backend/remote's business, and what lies behind it a
// backend's.
//
// # The way in
//
// The owner makes a one-time token for a name ([Authority.NewToken]) and carries it to the
// host, with the pin of the authority's key ([Authority.Pin]). [Enrol] makes a key there,
// which never leaves, proves by the pin that it speaks to the authority, and gets the
// certificate. [Identity.Run] renews it at two thirds of its life, with a new key, and
// fetches what was revoked. ServerTLS and ClientTLS of the identity give
// remote.ServeOptions.GetTLS and remote.DialOptions.GetTLS what is good now, and Recheck
// ends the sessions of who is revoked meanwhile, on either side.
//
// A certificate has one role. An agent's is for servers alone: who steals it can't be a
// client of other agents.
//
// # A token is accepted once
//
// Accepting it is one file that exists or not, made by a link, so that of any number of
// racing processes one wins, also over a power cut. The file names the key: the same key
// may ask again, and gets the same certificate, as long as the token lives. So an answer
// that was lost costs nothing. Of a token only a hash is kept, and only its first half,
// which opens nothing, is ever logged.
//
// # Revocation
//
// Certificates that are revoked are in a signed list for each authority's key (RFC 5280).
// Identities fetch it every minute. A list that can't be fetched is believed until its
// NextUpdate, a day, and [IdentityOptions].Grace, a week, and then nobody is believed any
// more: an attacker who keeps the authority away must not keep a revoked client alive,
// and a site that burns down must not take the recovery with it. Keep the authority's
// folder, or a copy, at the recovery site. docs/decisions/0028 weighs this.
//
// # Keys of the authority
//
// [Authority.Rotate] makes the next key. It is known to everybody before it signs, and
// the old one until all that it signed has expired. A company's own authority takes the
// place of the built-in one through [Signer].
//
// # Not verified
//
// No authority but the built-in one was tried. Clocks of the authority and its
// identities must agree to within a tenth of a certificate's life, or five minutes.
package enrol
