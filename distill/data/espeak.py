"""espeak-ng in process: text to speech through the shared library that the `espeakng-loader` wheel carries."""

import ctypes
from dataclasses import dataclass, field

import numpy as np

AUDIO_RETRIEVAL, PHONEME_EVENTS, UTF8 = 2, 1, 1  # espeak_Initialize output and option, text encoding
PHONEME, END_OF_EVENTS = 7, 0
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_SetParameter

# Every voice variant of espeak-ng that sounds like a person (no robots, no whispering).
VARIANTS = (
    "Alex Alicia Andrea Andy Annie AnxiousAndy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike "
    "Nguyen Reed RicishayMax RicishayMax2 RicishayMax3 Storm Tweaky adam anika announcer antonio aunty belinda "
    "benjamin boris caleb david ed edward edward2 f1 f2 f3 f4 f5 grandma grandpa gustave ian iven iven2 iven3 iven4 "
    "john kaukovalta klatt klatt2 klatt3 klatt4 klatt5 klatt6 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel "
    "mike2 norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor zac"
).split()

UNSTEADY = {"Alicia", "f2", "f3", "f5", "sandro", "victor"}  # their breath is other noise in every process


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Speech:
    """What espeak said: mono audio and where each phoneme starts."""

    rate: int  # samples per second
    blocks: list[np.ndarray] = field(default_factory=list)
    phones: list[str] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)  # seconds

    def audio(self) -> np.ndarray:
        """float32 in [-1, 1], (N,)."""
        if not self.blocks:
            return np.zeros(0, np.float32)
        return np.concatenate(self.blocks).astype(np.float32) / 32768


class Espeak:
    """One speaking library. It keeps state between sentences, so equal bytes need a fresh process."""

    def __init__(self):
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self.rate = self._library.espeak_Initialize(AUDIO_RETRIEVAL, 0, data, PHONEME_EVENTS)
        if self.rate <= 0:
            raise OSError(f"espeak-ng did not start: espeak_Initialize returned {self.rate} for {data.decode()}")
        self._speech = Speech(self.rate)
        self._callback = _Callback(self._receive)  # kept: ctypes frees a callback nobody holds
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, events) -> int:
        index = 0
        while events[index].type != END_OF_EVENTS:
            if events[index].type == PHONEME:
                self._speech.phones.append(events[index].name.decode("utf-8", "replace"))
                self._speech.starts.append(events[index].audio_position / 1000)
            index += 1
        if count > 0:
            self._speech.blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> Speech:
        """Speak `text`; `rate` in words per minute, `pitch` and `pitch_range` 0..99 as espeak counts them.

        Raises ValueError for a voice espeak does not have.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range), (VOLUME, 90)):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        self._speech = Speech(self.rate)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 0, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return self._speech
