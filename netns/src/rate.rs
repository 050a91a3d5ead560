//! How much a context may receive and send: `in=100mbit,out=20mbit`, in the units of tc(8).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A rate in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(u64);

/// What holds for a context. A direction without a rate is as fast as the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// What it receives.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    pub inward: Option<Rate>,
    /// What it sends.
    #[serde(rename = "out", default, skip_serializing_if = "Option::is_none")]
    pub outward: Option<Rate>,
}

/// What is to be done about one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// It stays as it is.
    #[default]
    Keep,
    /// No rate.
    Lift,
    /// This rate.
    Hold(Rate),
}

/// What is to be done about both, as `--net-rate` says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// What the context receives.
    pub inward: Wish,
    /// What it sends.
    pub outward: Wish,
}

/// The text is no pair of rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected in=RATE,out=RATE or one of them; RATE is a number with bit, kbit, mbit, gbit (a second) or bps, kbps, mbps, \
     gbps (bytes a second), from 8kbit to 1000gbit, or none"
)]
pub struct NoRates;

/// The units of tc(8), in bits a second.
const UNITS: [(&str, u64); 16] = [
    ("bit", 1),
    ("kbit", 1_000),
    ("mbit", 1_000_000),
    ("gbit", 1_000_000_000),
    ("kibit", 1 << 10),
    ("mibit", 1 << 20),
    ("gibit", 1 << 30),
    ("bps", 8),
    ("kbps", 8_000),
    ("mbps", 8_000_000),
    ("gbps", 8_000_000_000),
    ("kibps", 8 << 10),
    ("mibps", 8 << 20),
    ("gibps", 8 << 30),
    ("tbit", 1_000_000_000_000),
    ("", 1),
];

/// Below this one packet takes more than a second; above it no machine is held.
const USUAL: std::ops::RangeInclusive<u64> = 8_000..=1_000_000_000_000;

impl Rate {
    /// Bytes a second.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Rates {
    /// Nothing is held.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Rates::default()
    }

    /// These, and those of `others` in a direction that has none.
    #[must_use]
    pub fn or(self, others: Rates) -> Rates {
        Rates { inward: self.inward.or(others.inward), outward: self.outward.or(others.outward) }
    }
}

impl Change {
    /// What holds after the change.
    #[must_use]
    pub fn applied_to(self, before: Rates) -> Rates {
        let one = |wish, before| match wish {
            Wish::Keep => before,
            Wish::Lift => None,
            Wish::Hold(rate) => Some(rate),
        };
        Rates { inward: one(self.inward, before.inward), outward: one(self.outward, before.outward) }
    }
}

impl FromStr for Rate {
    type Err = NoRates;

    fn from_str(text: &str) -> Result<Rate, NoRates> {
        let end = text.find(|byte: char| !byte.is_ascii_digit() && byte != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = unit.to_ascii_lowercase();
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(NoRates)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 6).ok_or(NoRates)?;
        let whole: u64 = whole.parse().map_err(|_| NoRates)?;
        let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| NoRates)? };
        let bits = whole
            .checked_mul(*unit)
            .and_then(|bits| bits.checked_add(fraction.checked_mul(*unit)? / 10_u64.pow(digits)))
            .filter(|bits| USUAL.contains(bits))
            .ok_or(NoRates)?;
        Ok(Rate(bits / 8))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 * 8;
        let fitting = UNITS[1..4].iter().rev().find(|(_, unit)| bits.is_multiple_of(*unit));
        let (name, unit) = fitting.unwrap_or(&UNITS[0]);
        write!(formatter, "{}{name}", bits / unit)
    }
}

impl FromStr for Change {
    type Err = NoRates;

    fn from_str(text: &str) -> Result<Change, NoRates> {
        let mut change = Change::default();
        for part in text.split(',') {
            let (direction, rate) = part.split_once('=').ok_or(NoRates)?;
            let place = match direction {
                "in" => &mut change.inward,
                "out" => &mut change.outward,
                _ => return Err(NoRates),
            };
            if *place != Wish::Keep {
                return Err(NoRates);
            }
            *place = if rate == "none" { Wish::Lift } else { Wish::Hold(rate.parse()?) };
        }
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_the_units_of_tc() {
        for (text, bytes) in [
            ("8000", 1000),
            ("8kbit", 1000),
            ("20mbit", 2_500_000),
            ("1.5Mbit", 187_500),
            ("1gbit", 125_000_000),
            ("1000bps", 1000),
            ("1mbps", 1_000_000),
            ("1mibps", 1 << 20),
            ("1tbit", 125_000_000_000),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().bytes(), bytes, "{text}");
        }
        for text in
            ["", "0", "mbit", "-1mbit", "1 mbit", "1mb", "7kbit", "2000gbit", "1.2.3mbit", ".5mbit", "9e9"]
        {
            assert_eq!(text.parse::<Rate>(), Err(NoRates), "{text}");
        }
        assert_eq!("1500kbit".parse::<Rate>().unwrap().to_string(), "1500kbit");
        assert_eq!("1mbps".parse::<Rate>().unwrap().to_string(), "8mbit");
    }

    #[test]
    fn a_change_names_one_direction_or_both() {
        let rate = |text: &str| Some(text.parse::<Rate>().unwrap());
        let before = Rates { inward: rate("1mbit"), outward: rate("2mbit") };
        let after = |text: &str| text.parse::<Change>().unwrap().applied_to(before);
        assert_eq!(after("in=3mbit"), Rates { inward: rate("3mbit"), ..before });
        assert_eq!(after("out=none,in=none"), Rates::default());
        for text in ["", "in", "in=", "up=1mbit", "in=1mbit,in=2mbit", "in=1mbit,", "1mbit"] {
            assert_eq!(text.parse::<Change>(), Err(NoRates), "{text}");
        }
    }
}
