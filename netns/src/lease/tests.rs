//! Leases in a folder of the test's own.

use super::*;

fn pool() -> (tempfile::TempDir, Pool, Definition) {
    let folder = tempfile::TempDir::new().unwrap();
    let network = Definition {
        name: "blue".into(),
        v4: Some("10.0.0.0/29".parse().unwrap()),
        v6: Some("fd00::/64".parse().unwrap()),
        ..Definition::default()
    };
    let pool = Pool::new(folder.path(), "blue");
    (folder, pool, network)
}

#[test]
fn numbers_go_round_and_end() {
    let (_folder, pool, network) = pool();
    let lock = pool.lock().unwrap();
    let take = |id: &str| pool.take(&lock, &network, id, None, |_, _| true).map(|(lease, _)| lease);
    let taken: Vec<u32> = ["a", "b", "c", "d", "e"].iter().map(|id| take(id).unwrap()).collect();
    assert_eq!(taken, [2, 3, 4, 5, 6]);
    assert!(matches!(take("f"), Err(Error::Exhausted(name)) if name == "blue"));
    assert!(pool.give_back(&lock, 4, "c").unwrap());
    assert!(!pool.give_back(&lock, 4, "c").unwrap());
    assert_eq!(take("f").unwrap(), 4);
    let leases: Vec<(u32, String)> = pool.leases(&lock).unwrap();
    assert_eq!(leases.iter().map(|(_, id)| id.as_str()).collect::<String>(), "abfde");
}

#[test]
fn the_dead_make_room_only_when_there_is_none_else() {
    let (_folder, pool, network) = pool();
    let lock = pool.lock().unwrap();
    let take = |id: &str| pool.take(&lock, &network, id, None, |holder, _| holder != "dead");
    assert_eq!(take("dead").unwrap(), (2, None));
    let others: Vec<u32> = (3..=6).map(|_| take("living").unwrap().0).collect();
    assert_eq!(others, [3, 4, 5, 6]);
    assert_eq!(take("new").unwrap(), (2, Some("dead".into())));
    // The one whose place was taken does not give back what is no longer its own.
    assert!(!pool.give_back(&lock, 2, "dead").unwrap());
    assert!(pool.give_back(&lock, 2, "new").unwrap());
}

#[test]
fn an_address_is_given_once() {
    let (_folder, pool, network) = pool();
    let lock = pool.lock().unwrap();
    let ask = |id: &str, address: &str| {
        let alive = |holder: &str, _| holder != "dead";
        pool.take(&lock, &network, id, Some(address.parse().unwrap()), alive).map(|(lease, _)| lease)
    };
    assert_eq!(ask("a", "10.0.0.5").unwrap(), 5);
    assert!(matches!(ask("b", "10.0.0.5"), Err(Error::Taken { holder, .. }) if holder.contains("\"a\"")));
    assert!(matches!(ask("b", "fd00::5"), Err(Error::Taken { .. })));
    assert_eq!(ask("dead", "fd00::6").unwrap(), 6);
    assert_eq!(ask("b", "10.0.0.6").unwrap(), 6);
    for foreign in ["10.0.0.1", "10.0.0.7", "10.0.1.2", "fd00::ff", "fd01::2"] {
        assert!(matches!(ask("b", foreign), Err(Error::Foreign { .. })), "{foreign}");
    }
}
