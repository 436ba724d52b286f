//! A message as it leaves: ranges of the original, and the bytes put between them.

use std::ops::Range;

/// More changes than one message can need: one insertion before all headers, Max-Forwards, two in
/// the top Via, two Route lines.
const EDITS: usize = 8;

/// A part of a message that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of the message that came.
    Original(Range<usize>),
    /// These bytes of [`Patch::inserted`].
    Inserted(Range<usize>),
}

/// What is cut out of a message, and what takes its place.
#[derive(Clone, Debug, Default)]
struct Edit {
    cut: Range<usize>,
    inserted: Range<usize>,
}

/// A message as it leaves, without a copy of it. Made to be used again: once its buffers have grown,
/// nothing is allocated for a message.
#[derive(Debug, Default)]
pub struct Patch {
    edits: [Edit; EDITS],
    count: usize,
    pieces: Vec<Piece>,
    inserted: Vec<u8>,
    /// Where a message with folded headers is read from.
    pub(super) unfolded: Vec<u8>,
}

impl Patch {
    /// One that changes nothing of a message of `length` bytes.
    #[cfg(test)]
    pub(crate) fn none(length: usize) -> Self {
        let mut patch = Self::default();
        patch.finish(length);
        patch
    }

    /// What the message consists of, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The bytes that [`Piece::Inserted`] refers to.
    #[must_use]
    pub fn inserted(&self) -> &[u8] {
        &self.inserted
    }

    /// The bytes of each piece, as an iovec wants them. `original` is the message that was patched.
    pub fn slices<'a>(&'a self, original: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Original(range) => &original[range.clone()],
            Piece::Inserted(range) => &self.inserted[range.clone()],
        })
    }

    /// How long the message is.
    #[must_use]
    pub fn length(&self) -> usize {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Original(range) | Piece::Inserted(range) => range.len(),
            })
            .sum()
    }

    /// Appends the message to `out`.
    pub fn write_to(&self, original: &[u8], out: &mut Vec<u8>) {
        self.slices(original)
            .for_each(|slice| out.extend_from_slice(slice));
    }

    /// The whole message.
    #[must_use]
    pub fn to_vec(&self, original: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length());
        self.write_to(original, &mut out);
        out
    }

    /// Forgets the last message.
    pub(super) fn clear(&mut self) {
        self.count = 0;
        self.pieces.clear();
        self.inserted.clear();
    }

    /// Puts what `write` writes in the place of `cut`. Of two insertions at one place, the one made
    /// first comes first.
    pub(super) fn replace(&mut self, cut: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.inserted.len();
        write(&mut self.inserted);
        let inserted = begin..self.inserted.len();
        debug_assert!(self.count < EDITS, "more edits than a message can need");
        if let Some(edit) = self.edits.get_mut(self.count) {
            *edit = Edit { cut, inserted };
            self.count += 1;
        }
    }

    /// Takes bytes out.
    pub(super) fn cut(&mut self, cut: Range<usize>) {
        self.replace(cut, |_| {});
    }

    /// Turns the changes into pieces of a message of `length` bytes.
    pub(super) fn finish(&mut self, length: usize) {
        let edits = &mut self.edits[..self.count];
        // Stable, and in place for as few as these.
        edits.sort_by_key(|edit| edit.cut.start);
        let mut at = 0;
        for edit in edits {
            if at < edit.cut.start {
                self.pieces.push(Piece::Original(at..edit.cut.start));
            }
            if !edit.inserted.is_empty() {
                self.pieces.push(Piece::Inserted(edit.inserted.clone()));
            }
            at = at.max(edit.cut.end);
        }
        if at < length {
            self.pieces.push(Piece::Original(at..length));
        }
    }
}
