//! The network that a context is given, by the words of `--net`.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cni;
use crate::network::{DEFAULT, is_name};
use crate::usermode::Program;

/// A kind of network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// A namespace of its own with loopback only.
    #[default]
    None,
    /// The host's.
    Host,
    /// The namespace behind a path, such as `/run/netns/blue`.
    Namespace(PathBuf),
    /// That of another context, by its id.
    Context(String),
    /// The host's, held to one of its addresses.
    Shared,
    /// That of a program, as an ordinary user's is.
    Program(Program),
    /// What a configuration of CNI plugins makes, by its name.
    Cni(String),
    /// A network of `vctx network create`, by its name.
    Named(String),
}

/// The words name no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected none, host, shared, bridge, the name of a network, ns:PATH, container:ID, cni:NAME, pasta or slirp4netns"
)]
pub struct UnknownNetwork;

impl FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, UnknownNetwork> {
        match text.split_once(':') {
            None if text == "none" => Ok(Network::None),
            None if text == "host" => Ok(Network::Host),
            None if text == "shared" => Ok(Network::Shared),
            None if text == "bridge" => Ok(Network::Named(DEFAULT.to_owned())),
            None if text == Program::Pasta.name() => Ok(Network::Program(Program::Pasta)),
            None if text == Program::Slirp4netns.name() => Ok(Network::Program(Program::Slirp4netns)),
            None if is_name(text) => Ok(Network::Named(text.to_owned())),
            Some(("ns", path)) if path.starts_with('/') => Ok(Network::Namespace(PathBuf::from(path))),
            Some(("cni", name)) if cni::is_name(name) => Ok(Network::Cni(name.to_owned())),
            Some(("container", id)) if !id.is_empty() => Ok(Network::Context(id.to_owned())),
            _ => Err(UnknownNetwork),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_net_are_networks() {
        assert_eq!("none".parse(), Ok(Network::None));
        assert_eq!("host".parse(), Ok(Network::Host));
        assert_eq!("ns:/run/netns/x".parse(), Ok(Network::Namespace("/run/netns/x".into())));
        assert_eq!("container:web".parse(), Ok(Network::Context("web".to_owned())));
        assert_eq!("bridge".parse(), Ok(Network::Named("vctx0".to_owned())));
        assert_eq!("blue-1".parse(), Ok(Network::Named("blue-1".to_owned())));
        assert_eq!("cni:podman".parse(), Ok(Network::Cni("podman".to_owned())));
        assert_eq!("pasta".parse(), Ok(Network::Program(Program::Pasta)));
        for text in
            ["", "cni:", "cni:../x", "cni:a b", "ns:", "ns:relative", "container:", "NONE", "../x", "a/b"]
        {
            assert_eq!(text.parse::<Network>(), Err(UnknownNetwork), "{text}");
        }
    }
}
