use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(first: &str, last: &str) -> Range {
    Range::new(ip(first), ip(last)).unwrap()
}

fn filter_of(list: &[u8]) -> (IpFilter, Reading) {
    let mut builder = Builder::default();
    let reading = read(&mut &list[..], &mut builder).unwrap();
    (builder.build(), reading)
}

#[test]
fn a_name_that_ends_in_a_colon_makes_no_ipv6_address() {
    let expected = Range::V4(0x0102_0304, 0x0102_0305);
    assert_eq!(parse_line(b"::1.2.3.4-1.2.3.5"), Ok(Line::Block(expected)));
    assert_eq!(parse_line(b"1.2.3.4-::1"), Err(LineError::Order));
}

#[test]
fn all_kinds_of_lines_are_known() {
    let blocks = [
        ("001.002.003.004 - 001.002.003.255 , 000 , some name", range("1.2.3.4", "1.2.3.255")),
        ("1.2.3.4-1.2.3.5", range("1.2.3.4", "1.2.3.5")),
        ("1.2.3.4 - 1.2.3.5 , 127 , x", range("1.2.3.4", "1.2.3.5")),
        ("1.2.3.4 - 1.2.3.5 , a name in place of a level", range("1.2.3.4", "1.2.3.5")),
        ("2001:db8:: - 2001:db8::ff , 10 , six", range("2001:db8::", "2001:db8::ff")),
        ("Some organisation:1.2.3.4-1.2.3.5", range("1.2.3.4", "1.2.3.5")),
        ("a: b, c - d:http://x:1.2.3.4-1.2.3.5", range("1.2.3.4", "1.2.3.5")),
        (":1.2.3.4-1.2.3.5", range("1.2.3.4", "1.2.3.5")),
        ("a name: six:2001:db8::1-2001:db8::2", range("2001:db8::1", "2001:db8::2")),
        ("10.1.2.3/8", range("10.0.0.0", "10.255.255.255")),
        ("0.0.0.0/0 # all", range("0.0.0.0", "255.255.255.255")),
        ("1.2.3.4/32;SBL1", range("1.2.3.4", "1.2.3.4")),
        ("2001:db8::1/32", range("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")),
        ("::/0", range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
        ("::ffff:1.2.3.0/120", range("1.2.3.0", "1.2.3.255")),
        ("  1.2.3.4\t// one\r", range("1.2.3.4", "1.2.3.4")),
        ("2001:db8::7", range("2001:db8::7", "2001:db8::7")),
    ];
    for (line, expected) in blocks {
        assert_eq!(parse_line(line.as_bytes()), Ok(Line::Block(expected)), "{line}");
    }
    let latin = b"Universit\xe4t:1.2.3.4-1.2.3.5";
    assert_eq!(parse_line(latin), Ok(Line::Block(range("1.2.3.4", "1.2.3.5"))), "names need not be UTF-8");
    for line in ["", "  \r", "# x", "; x", "// x", "#1.2.3.4"] {
        assert_eq!(parse_line(line.as_bytes()), Ok(Line::Empty), "{line}");
    }
    assert_eq!(parse_line(b"1.2.3.4 - 1.2.3.5 , 128 , friend"), Ok(Line::Allow));
    let wrong = [
        ("nonsense", LineError::Unknown),
        ("1.2.3", LineError::Unknown),
        ("1.2.3.256", LineError::Unknown),
        ("1.2.3.4.5", LineError::Unknown),
        ("1.2.3.0004", LineError::Unknown),
        ("1.2.3.4/x", LineError::Unknown),
        ("1.2.3.4 and more", LineError::Unknown),
        ("name:1.2.3.4", LineError::Unknown),
        ("name-1.2.3.4", LineError::Unknown),
        ("1.2.3.5 - 1.2.3.4 , 0 , x", LineError::Order),
        ("name:1.2.3.5-1.2.3.4", LineError::Order),
        ("1.2.3.4 - 2001:db8::1", LineError::Order),
        ("1.2.3.4/33", LineError::Prefix),
        ("2001:db8::/129", LineError::Prefix),
    ];
    for (line, why) in wrong {
        assert_eq!(parse_line(line.as_bytes()), Err(why), "{line}");
    }
}

#[test]
fn wrong_lines_are_counted_and_named() {
    let (filter, reading) =
        filter_of(b"\xef\xbb\xbf1.0.0.0/8\nbad\n\n2.0.0.1 - 2.0.0.0\n3.0.0.0-3.0.0.9,200,x\n4.4.4.4");
    assert_eq!((reading.ranges, reading.allowed, reading.bad), (2, 1, 2));
    assert_eq!(reading.first_bad.iter().map(|bad| bad.number).collect::<Vec<_>>(), [2, 4]);
    assert!(filter.blocks(ip("1.255.0.0")) && filter.blocks(ip("4.4.4.4")) && !filter.blocks(ip("3.0.0.1")));
    let long = [vec![b'x'; 9000], b"\n5.5.5.5\n".to_vec()].concat();
    let (filter, reading) = filter_of(&long);
    assert_eq!((reading.ranges, reading.bad, reading.first_bad[0].number), (1, 1, 1));
    assert!(filter.blocks(ip("5.5.5.5")));
    let (_, reading) = filter_of(&b"bad\n".repeat(1000));
    assert_eq!((reading.bad, reading.first_bad.len()), (1000, 5));
}

fn p2b(version: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut list = b"\xff\xff\xff\xffP2B".to_vec();
    list.push(version);
    list.extend(body.concat());
    list
}

#[test]
fn all_versions_of_p2b_are_read() {
    let ends: &[u8] = &[1, 2, 3, 4, 1, 2, 3, 9];
    for version in [1, 2] {
        let (filter, reading) =
            filter_of(&p2b(version, &[b"name\0", ends, b"\0", &[5, 0, 0, 0, 4, 0, 0, 0]]));
        assert_eq!((reading.ranges, reading.bad, filter.len()), (1, 1, 1), "the second goes downwards");
        assert!(filter.blocks(ip("1.2.3.9")) && !filter.blocks(ip("1.2.3.10")));
    }
    let names: &[u8] = &[0, 0, 0, 2, b'a', 0, b'b', 0];
    let three = p2b(3, &[names, &[0, 0, 0, 1], &[0, 0, 0, 1], ends]);
    let (filter, reading) = filter_of(&three);
    assert_eq!((reading.ranges, reading.bad, filter.len()), (1, 0, 1));
    for cut in 8..three.len() {
        let (filter, reading) = filter_of(&three[..cut]);
        assert_eq!((reading.bad, filter.len()), (1, 0), "cut at {cut}");
    }
    let endless = p2b(3, &[&[0xff; 4]]);
    assert_eq!(filter_of(&endless).1.bad, 1, "a count is not believed");
    assert_eq!(filter_of(&p2b(4, &[ends])).1.bad, 1);
}

#[test]
fn what_touches_becomes_one_range() {
    let (filter, _) = filter_of(
        b"1.0.0.0-1.0.0.9\n1.0.0.10-1.0.0.20\n1.0.0.5-1.0.0.7\n0.0.0.0-0.255.255.255\n255.255.255.255",
    );
    assert_eq!(filter.len(), 2);
    assert!(filter.blocks(ip("::ffff:1.0.0.20")), "as a socket of both families tells it");
    assert!(filter.blocks(ip("255.255.255.255")) && !filter.blocks(ip("1.0.0.21")));
    assert!(IpFilter::default().is_empty() && !IpFilter::default().blocks(ip("1.2.3.4")));
    let (all, _) = filter_of(b"::/0\n0.0.0.0/0\n1.2.3.4\n");
    assert_eq!(all.len(), 2);
    assert!(all.blocks(ip("::")) && all.blocks(ip("0.0.0.0")) && all.blocks(ip("9.9.9.9")));
}

#[test]
fn a_filter_may_be_bounded() {
    let mut ranges = vec![[0, 0]; 3];
    assert_eq!(push(&mut ranges, [9, 9], 3), Err(TooMany));
    assert_eq!(push(&mut ranges, [0, 5], 3), Ok(()), "what continues the last one needs no room");
}

/// Addresses that share few beginnings, so that ranges meet.
fn near() -> impl Strategy<Value = u32> {
    (0_u32..4, 0_u32..6, prop::sample::select(vec![0_u32, 1, 2, 0x7fff, 0xfffe, 0xffff]))
        .prop_map(|(high, low, rest)| (high * 0x5555) << 16 | rest.wrapping_add(low) & 0xffff)
}

proptest! {
    #[test]
    fn it_is_what_a_list_of_ranges_is(
        ranges in prop::collection::vec((near(), near()), 0..40),
        wide in prop::collection::vec((any::<u32>(), 0_u32..1 << 18), 0..20),
        asked in prop::collection::vec(prop_oneof![near(), any::<u32>()], 1..60),
    ) {
        let ranges: Vec<(u32, u32)> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b)))
            .chain(wide.into_iter().map(|(from, len)| (from, from.saturating_add(len)))).collect();
        let (mut four, mut six) = (Builder::default(), Builder::default());
        // The same in the upper bits of IPv6.
        let up = |value: u32| u128::from(value) << 90 | 1 << 127;
        for (first, last) in &ranges {
            four.add(Range::V4(*first, *last)).unwrap();
            six.add(Range::V6(up(*first), up(*last))).unwrap();
        }
        let (four, six) = (four.build(), six.build());
        for pair in four.v4.windows(2) {
            prop_assert!(pair[0][1] < pair[1][0] - 1, "sorted, and apart");
        }
        let ends = ranges.iter().flat_map(|(a, b)| [*a, *b, a.wrapping_sub(1), b.wrapping_add(1)]);
        for ip in asked.into_iter().chain(ends) {
            let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&ip));
            prop_assert_eq!(four.blocks(IpAddr::V4(ip.into())), expected);
            prop_assert_eq!(six.blocks(IpAddr::V6(up(ip).into())), expected);
        }
    }

    #[test]
    fn lines_say_what_was_written(
        first in any::<u32>(),
        last in any::<u32>(),
        name in "[ -~]{0,30}",
        style in 0..3,
    ) {
        use std::net::Ipv4Addr;
        let (first, last) = (Ipv4Addr::from(first.min(last)), Ipv4Addr::from(first.max(last)));
        let name = name.replace(['#', ';', '/'], "_");
        let line = match style {
            0 => format!("{first} - {last} , 100 , {name}"),
            1 => format!("{name}:{first}-{last}"),
            _ => format!("{first}-{last}"),
        };
        let expected = Range::V4(first.into(), last.into());
        prop_assert_eq!(parse_line(line.as_bytes()), Ok(Line::Block(expected)));
    }
}
