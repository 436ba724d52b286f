//! The headers a proxy looks at, as ranges of the message.

use std::ops::Range;

use super::super::{
    address::{self, trim_range},
    headers::{Lines, Name, Named, Sip, find},
};

/// Where the headers lie that a proxy looks at.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// The message, with the same offsets, but with blanks in place of the line endings inside
    /// folded values (RFC 3261 section 7.3.1): everything is read from here.
    pub(super) text: &'a [u8],
    original: &'a [u8],
    /// The header section, without the empty line behind it.
    pub(super) section: Range<usize>,
    pub(super) call_id: Single,
    pub(super) from: Single,
    pub(super) to: Single,
    pub(super) cseq: Single,
    pub(super) max_forwards: Single,
    pub(super) vias: Several,
    pub(super) routes: Several,
    pub(super) proxy_requires: Several,
}

/// A header of which a message has one.
#[derive(Clone, Debug, Default)]
pub(super) struct Single {
    /// The value of the first, without blanks around it.
    pub(super) value: Option<Range<usize>>,
    /// Is there another?
    pub(super) again: bool,
}

/// A header of which a message may have many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Several {
    /// Offset of the first.
    first: usize,
    count: usize,
}

/// One line of a header of which there may be many.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// All of it, with its line ending.
    pub(super) line: Range<usize>,
    /// Its value, without blanks around it.
    pub(super) value: Range<usize>,
}

impl<'a> Fields<'a> {
    /// Finds the headers. `unfolded` is used if one of them is folded.
    pub(super) fn read(sip: &Sip<'a>, unfolded: &'a mut Vec<u8>) -> Self {
        let index = sip.index();
        let text = if index.is_folded() {
            unfold(sip, index.end(), unfolded)
        } else {
            sip.bytes()
        };
        let single = |name| Single::of(index.named(name), text);
        let several = |name| Several::of(index.named(name));
        Self {
            text,
            original: sip.bytes(),
            section: sip.lines().offset()..index.end(),
            call_id: single(Name::CallId),
            from: single(Name::From),
            to: single(Name::To),
            cseq: single(Name::CSeq),
            max_forwards: single(Name::MaxForwards),
            vias: several(Name::Via),
            routes: several(Name::Route),
            proxy_requires: several(Name::ProxyRequire),
        }
    }

    /// The lines of a header of which there may be many, in order.
    pub(super) fn lines(&self, name: Name, several: Several) -> impl Iterator<Item = Field> {
        Lines::starting(self.original, several.first)
            .filter(move |line| line.name == name)
            .take(several.count)
            .map(|line| Field {
                value: trim_range(self.text, line.value),
                line: line.whole,
            })
    }

    /// The elements of all Via headers, in order.
    pub(super) fn via_elements(&self) -> impl Iterator<Item = Range<usize>> {
        self.lines(Name::Via, self.vias)
            .flat_map(|field| elements(self.text, field.value))
    }

    /// The value of a header of which there is one; empty if there is none.
    pub(super) fn value(&self, single: &Single) -> &'a [u8] {
        single.value.clone().map_or(&[], |value| &self.text[value])
    }

    /// The number in `CSeq`, as written.
    pub(super) fn cseq_number(&self) -> &'a [u8] {
        let value = self.value(&self.cseq);
        let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
        &value[..digits]
    }
}

impl Single {
    fn of(named: &Named, text: &[u8]) -> Self {
        Self {
            value: named.value().map(|value| trim_range(text, value)),
            again: named.count() > 1,
        }
    }
}

impl Several {
    const fn of(named: &Named) -> Self {
        Self {
            first: named.begin(),
            count: named.count(),
        }
    }
}

/// The elements of a comma list that lies in `text`.
pub(super) fn elements(text: &[u8], list: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    self::list(&text[list.clone()]).map(move |element| shift(element, list.start))
}

/// Where the elements of a comma list lie, each without the blanks around it. A comma inside angle
/// brackets separates nothing: the user part of a URI may hold one (RFC 3261 section 25.1).
pub fn list(list: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut bytes = address::unquoted(list);
    let mut begin = Some(0);
    let mut closing = 0;
    let mut separates = move |at: usize, byte: u8| {
        if byte == b'<' && at >= closing {
            let close = find(&list[at..], b'>');
            // A bracket that is never closed is a byte like any other, and so are all behind it.
            closing = close.map_or(usize::MAX, |length| at + length);
        }
        byte == b',' && (at >= closing || closing == usize::MAX)
    };
    // Nearly always there is one element.
    let is_list = find(list, b',').is_some();
    std::iter::from_fn(move || {
        let from = begin?;
        let comma = if is_list {
            bytes.find(|&(at, byte)| separates(at, byte))
        } else {
            None
        };
        let end = comma.map_or(list.len(), |(at, _)| at);
        begin = comma.map(|(at, _)| at + 1);
        Some(trim_range(list, from..end))
    })
}

/// A range that counts from `base`, as one that counts from 0.
pub(super) const fn shift(range: Range<usize>, base: usize) -> Range<usize> {
    range.start + base..range.end + base
}

/// A copy of the message up to `end`, with blanks in place of line endings inside values.
fn unfold<'a>(sip: &Sip<'_>, end: usize, copy: &'a mut Vec<u8>) -> &'a [u8] {
    copy.clear();
    copy.extend_from_slice(&sip.bytes()[..end]);
    for line in sip.lines().filter(|line| line.folded) {
        let value = &mut copy[line.value];
        for at in 0..value.len() {
            if value[at] == b'\n' {
                value[at] = b' ';
                if at > 0 && value[at - 1] == b'\r' {
                    value[at - 1] = b' ';
                }
            }
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(list: &str) -> Vec<&str> {
        self::list(list.as_bytes())
            .map(|range| &list[range])
            .collect()
    }

    #[test]
    fn lists_are_cut_at_the_commas_that_separate() {
        for (list, expected) in [
            ("a", &["a"][..]),
            (" a ,b\t, c", &["a", "b", "c"]),
            (
                "<sip:a,b@c>, <sip:d>;x=\",\",e",
                &["<sip:a,b@c>", "<sip:d>;x=\",\"", "e"],
            ),
            ("<a,b,<c", &["<a", "b", "<c"]),
            ("\"a,b", &["\"a", "b"]),
            (",", &["", ""]),
            ("", &[""]),
        ] {
            assert_eq!(cut(list), expected, "{list}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost(list in "[<>,\" a\\\\]{0,30}") {
            let ranges: Vec<_> = self::list(list.as_bytes()).collect();
            let mut at = 0;
            for range in ranges {
                prop_assert!(list[at..range.start].bytes().all(|b| b == b' ' || b == b','));
                at = range.end;
            }
            prop_assert!(list[at..].trim().is_empty());
        }
    }
}
