"""ESP packets that a Linux kernel sealed, made by scripts/known_answers.py from the captures.

Each row: (source, AEAD, auth, cipher, ESN, the packet from SPI to ICV); an algorithm is (kernel name, key in
hex, ICV bits; 0: the default). The keys protected nothing but these recordings.
"""

Named = tuple[str, str, int]
Row = tuple[str, Named | None, Named | None, Named | None, bool, str]

ROWS: tuple[Row, ...] = (
    (
        "esn-cbc-window64, Linux 6.1.176",
        None,
        ("hmac(sha256)", "b3a68172123be1b065f13cf38fc157c17d092aa1cec800863107fe583ad6326d", 128),
        ("cbc(aes)", "4f078ee1736d327435c22ec3548bf71b", 0),
        True,
        "f0068293000000010504a48c846663204059e0309f1962836727e58ca92181be9400ba55f63ae49bf2fea1efc91fba5c"
        "8cfb9e9b9792788e1bd89c014aca1753f753711ec5481465",
    ),
    (
        "esn-window64, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "6310bf83eb3973d3863c7c9893bd43a2a1cd0adf", 128),
        None,
        None,
        True,
        "bc28214000000001bfcfdb42a647b17bb9e9e72219f7fcd61b90bf96f9549c300f3ff73212d25fed6885af28f4f2b4d4"
        "bcb76961658dd4502e701858098272b6",
    ),
    (
        "esp-aes-hmac-md5, Linux 6.1.176",
        None,
        ("hmac(md5)", "4f5e1b14ca8233dc6bf9e3105fb96b0b", 0),
        ("cbc(aes)", "30c27836d8aa246fd7423ecc2d410d74", 0),
        False,
        "c1e1fcb500000001434a39e2f50768d43b1856fbdee587e3b2636a9c8816e37af3fffa07edfdcc9cbf373c72c18e2b83"
        "9de3ef7b4a1d58ffc009779686ebf6fdbba37a22",
    ),
    (
        "esp-aes-hmac-rmd160, Linux 6.1.176",
        None,
        ("hmac(rmd160)", "851536668f45c418edd69962317fe29f588885f2", 0),
        ("cbc(aes)", "63629986398a0ed8bab9d58e77f84ad6", 0),
        False,
        "508a321900000001ba642411763a8380aa6a7622b038b97e8fa6696d209a516404a3e2e953407ff2bebabdc7cca332d3"
        "ffacf95563948b4d45c7d0fcb65ea2de796c3b94",
    ),
    (
        "esp-aes-hmac-sha1, Linux 6.1.176",
        None,
        ("hmac(sha1)", "558d2b32f37a473a4c167f3ed351939f1b78d341", 0),
        ("cbc(aes)", "05cee6ada9874175a0bc21efc119ace3", 0),
        False,
        "d6ddf92900000001a7cb566ffa6c324b6358259dfc9f0a874a37621da4d3fc0da5912eb7460e705db4864a5509615ca6"
        "2ad43dbd48bf5791d77f33efbeaef8eb98abbd90",
    ),
    (
        "esp-aes-hmac-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "2ffc98ebe474dcde91bb07d73200025bac6b6215f5afa9bd14ec2fbce9b06f96", 0),
        ("cbc(aes)", "e16daa1f75ae3ee87a29929e9950f5dc", 0),
        False,
        "e875615c00000001230068e15c148dc7dd5533f6ce4cc8ad33d957273fc7233f90880f6243c535c4256290274ad9b04f"
        "da9589be8845d1bed4eedf5df8ed7908aaee434e",
    ),
    (
        "esp-aes-hmac-sha384, Linux 6.1.176",
        None,
        (
            "hmac(sha384)",
            "b2b9a6e5e44845383c60485bbe33f5f4a77a507bb55dc57d4522246de3f639b8251a1d0753795cc0e8caf2c4283a0389",
            192,
        ),
        ("cbc(aes)", "8d762d21890fac5027e57ef21bf985af", 0),
        False,
        "b8c4b359000000013c019637bab3e6b0f2831117c0fb4f435a0766661087d9cbbcfa266b4c26f4897f81ea0d4a9c31a9"
        "6812018ad54ae364147ce050d3520d6ff6cb5678850df5140b4c7d9799bb46a5",
    ),
    (
        "esp-aes-hmac-sha512, Linux 6.1.176",
        None,
        (
            "hmac(sha512)",
            "ca5d900dcd598c909b687972ec8185fa450d7f46970bed36314fe8b690dc2fb4074c336cd0c34d21c25f0c4730799926ca4da7ab3259d320ea821440b0d29f8f",
            256,
        ),
        ("cbc(aes)", "93117223f60bab5453fef62f64c625b4", 0),
        False,
        "fff6dd1800000001e4c6dd49a7ea0766e82a6e82e3c15b2b7b0f44ab64f526fdfba8376dd774a0d437e36afb27350cb3"
        "ec67e4e6c087f4174cab08add5ba8c27db23f52b55f3d4025ebc46baa19b34b157623c456335201d",
    ),
    (
        "esp-aes-xcbc-aes, Linux 6.1.176",
        None,
        ("xcbc(aes)", "a2e35eb5012a8df31a3122a5819af467", 0),
        ("cbc(aes)", "fd44dd1281b646b524846c80a6e933b7", 0),
        False,
        "8229ceca00000001179aa378780929db720771b009a88fdf933538841deaeb89a75c3b71f5912dfb820a5d549f41c0ac"
        "c6612d13cf5de8d450fb5b1de0206c3be4c5959b",
    ),
    (
        "esp-cbc-aes128-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "027ec68c0eb530b2f2af9eba5201cc6ea05eaa14113a333ae71b5d68f1cda0f6", 128),
        ("cbc(aes)", "cdcade7363462ccac3e83525d926179c", 0),
        False,
        "2f31f2ce00000001e641f42428fe8274f6b18c14f3867cef0be6e93091016e0b5c2afc36f077571db22f03a05150e122"
        "5ed3fa1591cc9becdf1003d96c86b32cae8d8bf1d885c508",
    ),
    (
        "esp-cbc-aes192-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "614e034e9cfc68556e292f297311f5894d6bc368039af477074293ab4d14db5e", 128),
        ("cbc(aes)", "97bae83ecd8cae350f58d5dd116dc9a982917c568c8f02e0", 0),
        False,
        "10d6334f00000001381fd4377b10ab6374db7125560b1d80355a3eb569ca9e25539c283ef0b3664118736e1e168f26b6"
        "cc963f9941fa4fa4ffaa5f927cb9a7f58555dfc574196ed7",
    ),
    (
        "esp-cbc-aes256-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "609af09112a3815e837788a864d0cb793f7a32a8d98c8ccdc26e52862d4a8a49", 128),
        ("cbc(aes)", "b847f0b745a362576a5cbf0984195f9aca08c74ca080b5b469a9574b93a14ee3", 0),
        False,
        "f360b10b0000000176c1c21a789c46a2bb7081afb2653bd91aee2e010c42c00037f378fa1410f903d2dda6b2e0833564"
        "76b476bbb5087a59bfef19926af8cac4dc6ddc45664fc1cc",
    ),
    (
        "esp-cbc-blowfish128-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "0c62335f0658518d2df89660b799ec1c6161f3ef7c78e584e558c70e112b07de", 128),
        ("cbc(blowfish)", "e63bfb47f2a2710661d56a67b00d4700", 0),
        False,
        "b000195d00000001cd507985902284c120cb80a0a4b1e99f5dbe8a49dbd230cb1454416bef92d4aa5b3cde52a4f20136"
        "0ca74d28b60cb0789cb6d400dc726c0d",
    ),
    (
        "esp-cbc-camellia128-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "0bd5e5ea94cf7242b68d3f534b9ad94c6c0df986bee990bd4b59ff7be726b591", 128),
        ("cbc(camellia)", "b4b74421b2ec32b9cf9a08460400dee8", 0),
        False,
        "5be61a9800000001702fcc4e5fc520b902b6f6c0d6372a4aba392e0efffc4671f2378dda0efc91a0caf929912954e6b0"
        "64736e6435524487794caed4885878dbfc5c6e8c3e57b7c1",
    ),
    (
        "esp-cbc-cast5128-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "80535de068e9abe394aa8140848fd290cadc279557a9727d8dcf8b08881b3a42", 128),
        ("cbc(cast5)", "1eb7cea79c2e2ce632439d8aa7577d93", 0),
        False,
        "1f52b81b00000001ea23e862cdf4b1ea811cf577f7f2f4d931dda4c45e10bb69ed469b583b02caf7e9bc080ad39a5b17"
        "23c990de725a2d955d169c99d73b08e9",
    ),
    (
        "esp-cbc-des3_ede192-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "3a39cf4dcba2a954665a7da60c1a54a3f11162cb8c0c0842076fd8a1964c8977", 128),
        ("cbc(des3_ede)", "7417f66f9a8af4e09a34b029ff8e0a773c31a03d9c3271b9", 0),
        False,
        "f76f149b0000000154d031c803f967214139a0639f1bedc97b218e6adeace6e32361f2cbff047d9801da17769c4be980"
        "d8cd14b619f93b9bc5cb3c2f87f17ebb",
    ),
    (
        "esp-cbc-des64-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "9a1c7c73bbe4816384bbb935b8573e766de4de3830624d320f2961ee9f13b09d", 128),
        ("cbc(des)", "7468b763611bce9a", 0),
        False,
        "23760d6100000001bb6ce5400db898a387e56a92f574412ab75f9992740b21db2cdefadb55760cc01f08bb2f9032fc1d"
        "95ec5863e3a744f758b325b48309b20d",
    ),
    (
        "esp-cbc-noauth, Linux 6.1.176",
        None,
        None,
        ("cbc(aes)", "7ce2d9966968123a3f7a1a711572ea55", 0),
        False,
        "592925430000000174f1d22c3e4aa3a045c4d971cd1b7b2931ce4a651259b7666f8e0f7d6bbb875eb8138ec648e653f9"
        "17af801d2bcaf002",
    ),
    (
        "esp-cbc-twofish128-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "7d6978472ff2b58bd6998e6a0d27815aa1f678bc6301c9d9faad49fcd71cd5ab", 128),
        ("cbc(twofish)", "79f2249befdb7d38d086c52eb14a4400", 0),
        False,
        "35a7858b0000000138c28978b8eb3cb6dc9b12099a10b2e11f0a7f26a25fbe853982c76845af7caa8364f4b326f17bc8"
        "e09cdf7b7b72dbd73371580a3bcc62769d1d5a29b5831483",
    ),
    (
        "esp-ccm128, Linux 6.1.176",
        ("rfc4309(ccm(aes))", "5d7282bfe8ff6c70f7623eeeef00a4589cdd09", 128),
        None,
        None,
        False,
        "ed1637aa00000001399519b8aba4042d3a2abb56ed3a5175e6dc4f08d452c0e33dd4a4189695770029587e6a5f667423"
        "79201175fd32c7452f212899606e176d",
    ),
    (
        "esp-chacha20poly1305, Linux 6.1.176",
        (
            "rfc7539esp(chacha20,poly1305)",
            "4184992a793c140e451fb59f27a8932bc9802648bfa42ecda8d252f737127ca25d024708",
            128,
        ),
        None,
        None,
        False,
        "73a6218000000001aae1a6a8afd8735bf1d7126b9275ba31a8f1a0b3fcea1ed934ff0820e7d6b652029c32e3e35a261f"
        "03592620d049b037f03b60ca8401cce8",
    ),
    (
        "esp-gcm128-icv128, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "a7c3eaf6a77e8d33e2e3d388d4f0cfa78d7604c5", 128),
        None,
        None,
        False,
        "47d62a5a00000001002d7bacea321cac0d0054533f5f77829d0baca057e26fccdf6e33a9f9179b46bafa95ba29c12fdb"
        "b5c5ef84bcfe3ad81b0c8245f20d62d9",
    ),
    (
        "esp-gcm128-icv64, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "943b531c43bc13e48fbd4c99645b0407fe7a502b", 64),
        None,
        None,
        False,
        "80f10e750000000109d3958e9518d0b43b8763f5e38f7f1651792eb120f361153977e30d9a1f3c88e70ed5b89cd2fb9f"
        "9f31725bfe796c95",
    ),
    (
        "esp-gcm128-icv96, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "c9c7bef4f3e3d1d6db8e327ddade951792a5a362", 96),
        None,
        None,
        False,
        "b25fecd100000001a2849eb5fe67d2a458906f1652ffe499021a247779e8755ce7668ab6eb9e2eb9a19575f28c7af93a"
        "65198cc4bce31fccf390ac0a",
    ),
    (
        "esp-gcm192-icv128, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "2f475b2fdc844a7dfef062c742ebb4d47e95445a835b5678f487dbb2", 128),
        None,
        None,
        False,
        "4b162b8600000001484cded9ab85e9d5c9f5d9f76cb7750761d3785108babcd8aa0c6fe1a13d1a9dca04f5f8915b72c7"
        "9c348661d092cb5572181acb17745c94",
    ),
    (
        "esp-gcm192-icv64, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "4b5bf78e07012da0f10ad9a74d926f17f3d63cdb8cb2b963cc370bea", 64),
        None,
        None,
        False,
        "03a35b4b0000000158ff36c031c5fde5369ecb2139c6a2005bb5fe1371dd5e95b2932d0d7af138289e78bff10712bf5b"
        "ec5e49c9f656e17e",
    ),
    (
        "esp-gcm256-icv128, Linux 6.1.176",
        (
            "rfc4106(gcm(aes))",
            "25160955b8b53e1986707c65d17669d86017e9b149ee0dab4332a553e10f1e8a23aa8c7b",
            128,
        ),
        None,
        None,
        False,
        "1f924deb0000000172d7b08fb165cff3c412dea5f5e426d262ed3d73886acf567e2d492c71ac169a53e4e85b7bf4ca81"
        "7bee69cef5c91990aa26c9ce424fcb81",
    ),
    (
        "esp-gcm256-icv64, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "8d9f51028efc10e827336f46a690eaa2782c6140ee9501f01b8373f0e1cfcc502aeb9ca6", 64),
        None,
        None,
        False,
        "1328a8b30000000124bc5673174304caaf42a7aa887b28f8e774cd44323fd29ce2d846a1081cfe79e01c0b94bd3a4f0f"
        "602329e25a8cd4a9",
    ),
    (
        "esp-gcm256-icv96, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "367f0eb908fdd32e93ca7daeacb9ac6ea77c41e3a9af4297616c4eab16485f56c3947282", 96),
        None,
        None,
        False,
        "2ece1e05000000013a7480c4ccf8c323c70f0f4077985d9d04ea8f4944ba58f938f7a47a290b96ec38985786866111c7"
        "e0294687398a7084b2600a8e",
    ),
    (
        "esp-gmac128, Linux 6.1.176",
        ("rfc4543(gcm(aes))", "20c9459ab04b85cc8f92166213883eaabdf3a0fa", 128),
        None,
        None,
        False,
        "042ebf2900000001a9e28f3d1557b2b24500001c4e4740004011d8850a0200010a0100011b5817700008b91101020204"
        "6e993655987f91a545df8e5e979c5962",
    ),
    (
        "esp-null-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "bdf7a71421eadfd7062e4f7913748a1675c325d8a3054932e9d58e05ad40eaa5", 128),
        ("ecb(cipher_null)", "", 0),
        False,
        "e59d6dc1000000014500001c13354000401113980a0200010a0100011b5817700008b9110102020405c459a3ebfd46dd"
        "d17c42f94d00cbbb",
    ),
    (
        "esp-rfc3686-ctr-aes160-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "7a539df2ea012dc2579526b931b434e07db46f51679b7a9905cba089e46848cd", 128),
        ("rfc3686(ctr(aes))", "8d5db9da7e48c7da60bbd391f738f764afbb4fe2", 0),
        False,
        "1cb9c8d8000000015d5da77bacb689a2bf5dd67faa0388d11589c99160c1532f2b457557922418666de402ae0ebd69e7"
        "930a2c32821b0d2c0e0246b1234811dc",
    ),
    (
        "esp-rfc3686-ctr-aes288-sha256, Linux 6.1.176",
        None,
        ("hmac(sha256)", "6c9beb907cd7ab2f884076558487ed37839d5d3ee00b1fc279bfa210a02034de", 128),
        ("rfc3686(ctr(aes))", "451a5f7a19d0fba2f81374b51f297fda47b8b1fe42afed255e30ac51b86dd2dc9c6abb6f", 0),
        False,
        "72bc0f58000000011f0444b72ad5943a557c0e2488c7484bb36e1cf15ae3d54367b43ff0eff3dbdf2c901f33d99650f0"
        "d2aaf91f6cdf6b282c8485aeeae3fc58",
    ),
    (
        "mode-tunnel-4in4-gcm, Linux 6.1.176",
        ("rfc4106(gcm(aes))", "2ea53ba682a286fb94117e70d04a146347425506", 128),
        None,
        None,
        False,
        "a1b3893500000001478af7010ee83a4f29934c80d589833b4120e30bf249b7d239b1ca9291a6b0290a381dc006bfe1b7"
        "08b28eeeac43bf637368ebc1497daeb4",
    ),
)
