//! Arrays of atomic integers in pages of their own: anonymous ones, or those of a BPF map that the
//! XDP program writes, too (`BPF_F_MMAPABLE`).
//!
//! A map syscall replaces a whole element, and would undo what the program wrote into it meanwhile.
//! So such maps are written word by word, by atomic operations. Pages take no memory before they are
//! used.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use memmap2::{MmapOptions, MmapRaw};

/// An element that may lie in shared memory.
///
/// # Safety
///
/// The type consists of atomic integers alone, so that any bytes are valid values of it and others
/// may write them; it needs no alignment beyond a cache line's, and its size is a multiple of that.
pub unsafe trait Shared: Sync {}

/// An array of elements, zeroed or shared.
#[derive(Debug)]
pub struct MappedArray<T> {
    memory: MmapRaw,
    elements: u32,
    of: PhantomData<T>,
}

impl<T: Shared> MappedArray<T> {
    /// Returns an array of this process, zeroed.
    pub fn anonymous(elements: u32) -> io::Result<Self> {
        let memory = MmapOptions::new().len(Self::bytes(elements)).map_anon()?;
        Ok(Self::over(memory.into(), elements))
    }

    /// Maps a BPF array of so many elements, each as large as `T`, into this process.
    pub fn of_map(map: BorrowedFd<'_>, elements: u32) -> io::Result<Self> {
        let memory = MmapOptions::new()
            .len(Self::bytes(elements))
            .map_raw(map.as_raw_fd())?;
        Ok(Self::over(memory, elements))
    }

    const fn over(memory: MmapRaw, elements: u32) -> Self {
        Self {
            memory,
            elements,
            of: PhantomData,
        }
    }

    const fn bytes(elements: u32) -> usize {
        elements as usize * size_of::<T>()
    }

    /// Returns the element at `index`, or `None` beyond the end.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        if index >= self.elements {
            return None;
        }
        // SAFETY: the memory begins at a page and holds `elements` of `T`; `Shared` promises the rest.
        Some(unsafe { &*self.memory.as_ptr().cast::<T>().add(index as usize) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{MappedArray, Shared};

    #[repr(C, align(64))]
    struct Line([AtomicU64; 8]);

    // SAFETY: a cache line of atomic words.
    unsafe impl Shared for Line {}

    #[test]
    fn elements_are_zeroed_apart_and_bounded() {
        let array = MappedArray::<Line>::anonymous(1_000).unwrap();
        array.get(999).unwrap().0[7].store(4, Ordering::Relaxed);
        array.get(998).unwrap().0[7].store(3, Ordering::Relaxed);
        let read = |index| {
            array
                .get(index)
                .map(|line| line.0[7].load(Ordering::Relaxed))
        };
        assert_eq!(
            [read(0), read(998), read(999), read(1_000)],
            [Some(0), Some(3), Some(4), None]
        );
    }
}
