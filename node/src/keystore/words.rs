//! The words a person writes down.

use bip39::{Language, Mnemonic};
use zeroize::{Zeroize as _, Zeroizing};

use super::KeystoreError;

/// How many words a new key has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WordCount {
    /// 12 words, 128 bits: as strong as secp256k1 itself.
    #[default]
    Twelve,
    /// 24 words, 256 bits.
    TwentyFour,
}

impl WordCount {
    /// The bytes of entropy behind that many words.
    #[must_use]
    pub const fn entropy_length(self) -> usize {
        match self {
            Self::Twelve => 16,
            Self::TwentyFour => 32,
        }
    }
}

/// The BIP39 words (English list) from which the whole node can be restored.
///
/// They are erased from memory when dropped and never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Words(Mnemonic);

impl Words {
    /// New words from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeystoreError::Randomness`] where it has none to give.
    pub fn generate(count: WordCount) -> Result<Self, KeystoreError> {
        let mut entropy = Zeroizing::new([0; 32]);
        let entropy = entropy.get_mut(..count.entropy_length()).unwrap_or_default();
        getrandom::fill(entropy).map_err(KeystoreError::Randomness)?;
        Self::from_entropy(entropy)
    }

    /// The words for `entropy`: 16, 20, 24, 28 or 32 bytes.
    ///
    /// # Errors
    /// [`KeystoreError::WordCount`] for any other length.
    pub fn from_entropy(entropy: &[u8]) -> Result<Self, KeystoreError> {
        // BIP39: 4 bytes make 3 words, the checksum included.
        let words = entropy.len() / 4 * 3;
        Mnemonic::from_entropy_in(Language::English, entropy)
            .map(Self)
            .map_err(|_| KeystoreError::WordCount { found: words })
    }

    /// Reads words as a person types them: any white space between them, capitals allowed.
    ///
    /// # Errors
    /// [`KeystoreError::WordCount`], [`KeystoreError::UnknownWord`] (its position, never the word),
    /// [`KeystoreError::WordChecksum`].
    pub fn parse(text: &str) -> Result<Self, KeystoreError> {
        let mut tidy = Zeroizing::new(String::with_capacity(text.len()));
        for word in text.split_whitespace() {
            if !tidy.is_empty() {
                tidy.push(' ');
            }
            tidy.extend(word.chars().map(|letter| letter.to_ascii_lowercase()));
        }
        let found = tidy.split(' ').filter(|word| !word.is_empty()).count();
        Mnemonic::parse_in_normalized(Language::English, &tidy).map(Self).map_err(|error| match error {
            bip39::Error::UnknownWord(index) => {
                KeystoreError::UnknownWord { position: index.saturating_add(1) }
            }
            bip39::Error::InvalidChecksum => KeystoreError::WordChecksum,
            _ => KeystoreError::WordCount { found },
        })
    }

    /// The words with one space between them, to be shown once to their owner.
    #[must_use]
    pub fn phrase(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string())
    }

    /// The entropy behind the words.
    pub(crate) fn entropy(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.to_entropy())
    }

    /// The BIP39 seed with the empty passphrase.
    pub(super) fn seed(&self) -> Zeroizing<[u8; 64]> {
        let mut seed = self.0.to_seed_normalized("");
        let kept = Zeroizing::new(seed);
        seed.zeroize();
        kept
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABANDON: &str =
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

    #[test]
    fn words_are_read_as_people_type_them() {
        let words = Words::parse(&format!("  {}\n", ABANDON.to_uppercase().replace(' ', "\t \n"))).unwrap();
        assert_eq!(*words.phrase(), ABANDON);
        assert_eq!(words, Words::from_entropy(&[0; 16]).unwrap());
        assert_eq!(
            hex::encode(words.seed().get(..8).unwrap()),
            "5eb00bbddcf06908",
            "the seed of the BIP39 vectors with the empty passphrase"
        );
    }

    #[test]
    fn wrong_words_are_explained_without_repeating_them() {
        let wrong = ABANDON.replacen("abandon", "secretword", 1);
        let error = Words::parse(&wrong).unwrap_err();
        assert!(matches!(error, KeystoreError::UnknownWord { position: 1 }), "{error}");
        assert!(!format!("{error} {error:?}").contains("secretword"));
        let swapped = ABANDON.replace("about", "abandon");
        assert!(matches!(Words::parse(&swapped), Err(KeystoreError::WordChecksum)));
        assert!(matches!(Words::parse("abandon about"), Err(KeystoreError::WordCount { found: 2 })));
        assert!(matches!(Words::parse(""), Err(KeystoreError::WordCount { found: 0 })));
        assert!(matches!(Words::parse(&"abandon ".repeat(100_000)), Err(KeystoreError::WordCount { .. })));
    }

    #[test]
    fn new_words_differ_and_are_as_many_as_asked_for() {
        for (count, words) in [(WordCount::Twelve, 12), (WordCount::TwentyFour, 24)] {
            let one = Words::generate(count).unwrap();
            assert_eq!(one.phrase().split(' ').count(), words);
            assert_ne!(one, Words::generate(count).unwrap());
            assert_eq!(one, Words::parse(&one.phrase()).unwrap());
            assert_eq!(format!("{one:?}"), "Words(…)");
        }
    }
}
