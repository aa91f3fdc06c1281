//! Addresses and keys of peers: what is worth keeping of what others say, and how a PeerId and a public key become
//! each other.

use std::net::{Ipv4Addr, Ipv6Addr};

use libp2p::{
    identity::{self, secp256k1},
    multiaddr::Protocol as Part,
};
use zeroize::Zeroizing;

use super::{Multiaddr, PeerId, limits::MAX_ADDRESS_LEN};

/// The multihash code of the identity function: keys of at most 42 bytes stand in a PeerId as they are.
const IDENTITY_HASH: u64 = 0;

/// The PeerId of a compressed secp256k1 public key, or `None` where the bytes are no point of the curve.
pub fn peer_id_from_public_key(key: &[u8; 33]) -> Option<PeerId> {
    let key = secp256k1::PublicKey::try_from_bytes(key).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The PeerId of a node with this secret key, or `None` where it is no valid secp256k1 key.
pub fn peer_id_from_secret_key(key: &[u8; 32]) -> Option<PeerId> {
    keypair(key).map(|pair| pair.public().to_peer_id())
}

/// The compressed secp256k1 public key in a PeerId, or `None` where the PeerId is of another kind of key.
pub fn public_key_of(peer: &PeerId) -> Option<[u8; 33]> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(key.try_into_secp256k1().ok()?.to_bytes())
}

pub(super) fn keypair(key: &[u8; 32]) -> Option<identity::Keypair> {
    let mut copy = Zeroizing::new(*key);
    let secret = secp256k1::SecretKey::try_from_bytes(copy.as_mut_slice()).ok()?;
    Some(identity::Keypair::from(secp256k1::Keypair::from(secret)))
}

/// Takes `/p2p/<peer id>` off the end of an address.
pub fn split_peer_id(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    if let Some(Part::P2p(peer)) = address.iter().last() {
        address.pop();
        return (address, Some(peer));
    }
    (address, None)
}

/// Whether the address only leads to this machine. Channels inside the process count as well.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Part::Ip4(ip)) => ip.is_loopback(),
        Some(Part::Ip6(ip)) => ip.is_loopback(),
        Some(Part::Memory(_)) => true,
        Some(Part::Dns(name) | Part::Dns4(name) | Part::Dns6(name)) => {
            name == "localhost" || name.ends_with(".localhost")
        }
        _ => false,
    }
}

/// The address of `peer` without its `/p2p` part, or `None` where it is not worth a dial: too long, of another peer,
/// to nowhere, over something else than TCP or QUIC, or to the loopback of a machine that is not ours.
pub(super) fn usable(address: &Multiaddr, peer: &PeerId, loopback: bool) -> Option<Multiaddr> {
    if address.len() > MAX_ADDRESS_LEN {
        return None;
    }
    let (address, named) = split_peer_id(address.clone());
    if named.is_some_and(|named| named != *peer) || (!loopback && is_loopback(&address)) {
        return None;
    }
    let mut parts = address.iter();
    let host_ok = match parts.next()? {
        Part::Ip4(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST),
        // A link-local IPv6 address means nothing without the interface it belongs to.
        Part::Ip6(ip) => !(ip == Ipv6Addr::UNSPECIFIED || ip.is_multicast() || ip.is_unicast_link_local()),
        Part::Dns(name) | Part::Dns4(name) | Part::Dns6(name) => !name.is_empty(),
        Part::Memory(port) => return (port != 0 && parts.next().is_none()).then_some(address),
        _ => false,
    };
    let rest_ok = match (parts.next()?, parts.next(), parts.next()) {
        (Part::Tcp(port), None, None) | (Part::Udp(port), Some(Part::QuicV1), None) => port != 0,
        _ => false,
    };
    (host_ok && rest_ok).then_some(address)
}

/// The name of what carries an address, for people.
pub(super) fn transport_name(address: &Multiaddr) -> &'static str {
    let mut name = "other";
    for part in address.iter() {
        match part {
            Part::P2pCircuit => return "relay",
            Part::Tcp(_) => name = "tcp",
            Part::QuicV1 => name = "quic",
            Part::Memory(_) => name = "memory",
            _ => {}
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_id_carries_its_public_key() {
        let peer = peer_id_from_secret_key(&[7; 32]).unwrap();
        let key = public_key_of(&peer).unwrap();
        assert_eq!(peer_id_from_public_key(&key), Some(peer));
        assert_eq!(peer_id_from_secret_key(&[0; 32]), None);
        assert_eq!(peer_id_from_public_key(&[5; 33]), None);
        let other = identity::Keypair::generate_ed25519().public().to_peer_id();
        assert_eq!(public_key_of(&other), None);
        assert_eq!(public_key_of(&PeerId::random()), None);
    }

    #[test]
    fn only_addresses_worth_a_dial_are_kept() {
        let peer = peer_id_from_secret_key(&[7; 32]).unwrap();
        let other = peer_id_from_secret_key(&[8; 32]).unwrap();
        for good in [
            "/ip4/203.0.113.7/tcp/4001",
            "/ip4/192.168.1.9/udp/4001/quic-v1",
            "/dns4/example.org/tcp/4001",
            "/ip6/2001:db8::1/tcp/9",
        ] {
            assert_eq!(usable(&addr(good), &peer, false), Some(addr(good)), "{good}");
        }
        for bad in [
            "/ip4/0.0.0.0/tcp/4001",
            "/ip4/203.0.113.7/tcp/0",
            "/ip4/224.0.0.1/udp/4001/quic-v1",
            "/ip6/fe80::1/tcp/4001",
            "/ip4/203.0.113.7",
            "/ip4/203.0.113.7/udp/4001",
            "/ip4/203.0.113.7/tcp/4001/ws",
            "/ip4/203.0.113.7/udp/4001/quic-v1/p2p-circuit",
            "/ip4/127.0.0.1/tcp/4001",
            "/memory/5",
            "/dns4/localhost/tcp/5",
        ] {
            assert_eq!(usable(&addr(bad), &peer, false), None, "{bad}");
        }
        assert!(usable(&addr("/ip4/127.0.0.1/tcp/4001"), &peer, true).is_some());
        let named = addr("/ip4/203.0.113.7/tcp/4001").with(Part::P2p(other));
        assert_eq!(usable(&named, &peer, false), None);
        assert_eq!(usable(&named, &other, false), Some(addr("/ip4/203.0.113.7/tcp/4001")));
        let long = addr(&format!("/dns4/{}/tcp/1", "a".repeat(400)));
        assert_eq!(usable(&long, &peer, false), None);
    }
}
