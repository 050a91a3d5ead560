//! Capability names and masks (capabilities(7)). The sets are written by the child; here is only their spelling.

use std::str::FromStr;

use caps::Capability;

/// The bit of a capability, by its name with or without `CAP_`, in any case.
#[must_use]
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    Capability::from_str(&full).ok().map(|capability| capability.bitmask())
}

/// The names of the set bits, with `CAP_`, in the order of their numbers.
#[must_use]
pub fn names(mask: u64) -> Vec<String> {
    let mut all: Vec<Capability> = caps::all().into_iter().filter(|one| mask & one.bitmask() != 0).collect();
    all.sort_by_key(|one| one.index());
    all.into_iter().map(|one| one.to_string()).collect()
}

/// All capabilities that the running kernel knows (`/proc/sys/kernel/cap_last_cap`) and this process may give away.
#[must_use]
pub fn bounding() -> u64 {
    caps::runtime::procfs_all_supported(None)
        .map(|set| set.iter().map(|one| one.bitmask()).sum())
        .unwrap_or_else(|_| caps::all().iter().map(|one| one.bitmask()).sum())
}

/// The permitted set of this process: no guest that shares its user namespace can have more. As the mask that the kernel
/// gives (capget(2)): every start asks, and caps' set of names, hashed one by one, takes forty thousand instructions.
#[must_use]
pub fn permitted() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |sets| sets.permitted.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_bits_agree() {
        for capability in caps::all() {
            let mask = bit(&capability.to_string()).unwrap();
            assert_eq!(names(mask), [capability.to_string()]);
        }
        assert_eq!(bit("net_admin"), bit("CAP_NET_ADMIN"));
        assert_eq!(bit("CAP_SHRUBBERY"), None);
    }
}
