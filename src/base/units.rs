//! Sizes, rates and durations as people write and read them. Sizes are IEC: 1 KiB = 1,024 bytes.

use std::time::Duration;

use crate::base::error::{Error, Kind, Result};

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1,024 MiB.
pub const GIB: u64 = 1 << 30;

/// `0 B`, `1.5 KiB`, `16 MiB`: three significant digits at most.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < KIB {
        return format!("{n} B");
    }
    let exponent = (63 - n.leading_zeros()) / 10;
    let unit = UNITS[usize::try_from(exponent).expect("at most 6") - 1];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = n as f64 / (1_u64 << (10 * exponent)) as f64;
    if value < 9.995 {
        format!("{value:.2} {unit}")
    } else if value < 99.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// `950 ms`, `12.3 s`, `4 min 05 s`, `2 h 10 min`, `3 d 4 h`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 => format!("{} ms", d.as_millis()),
        1..60 => format!("{:.1} s", d.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A number with a comma every three digits: `1,441,792`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Reads `10s`, `500ms`, `5m`, `2h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let scale_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let ms = digits.parse::<u64>().ok().filter(|_| scale_ms > 0).and_then(|n| n.checked_mul(scale_ms));
    ms.map(Duration::from_millis).ok_or_else(|| {
        Error::new(Kind::Usage, format!("{text:?} is not a duration"))
            .hint("write a number and ms, s, m, h or d, as in 30s")
    })
}

/// Reads `50MiB/s`, `512KiB/s`, `1GiB/s`: bytes per second.
pub fn parse_rate(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
    let scale = match &text[digits.len()..] {
        "KiB/s" => KIB,
        "MiB/s" => MIB,
        "GiB/s" => GIB,
        _ => 0,
    };
    let rate = digits.parse::<u64>().ok().filter(|_| scale > 0).and_then(|n| n.checked_mul(scale));
    rate.ok_or_else(|| {
        Error::new(Kind::Usage, format!("{text:?} is not a rate"))
            .hint("write a whole number and KiB/s, MiB/s or GiB/s, as in 50MiB/s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_three_digits() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (16 * MIB, "16.0 MiB")];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes(200 * GIB), "200 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn durations_read_and_print() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms));
        }
        for wrong in ["", "s", "10", "10w", "-1s", "1.5h", "99999999999999999999d", "999999999999999999d"] {
            assert_eq!(parse_duration(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        assert_eq!(duration(Duration::from_millis(950)), "950 ms");
        assert_eq!(duration(Duration::from_secs(245)), "4 min 05 s");
        assert_eq!(duration(Duration::from_secs(7800)), "2 h 10 min");
        assert_eq!(count(1_441_792), "1,441,792");
        assert_eq!(count(100), "100");
    }

    #[test]
    fn rates_read() {
        for (text, rate) in [("64KiB/s", 65_536), ("50MiB/s", 52_428_800), ("1GiB/s", GIB)] {
            assert_eq!(parse_rate(text).unwrap(), rate);
        }
        for wrong in ["", "50", "50MiB", "50MB/s", "-1MiB/s", "1.5MiB/s", "MiB/s", "99999999999999999GiB/s", "é"] {
            let error = parse_rate(wrong).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.hint_text().is_some(), "{wrong}");
        }
    }
}
