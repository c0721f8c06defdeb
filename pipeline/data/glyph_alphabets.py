"""The alphabets of the glyphs data set: characters that the DejaVu fonts draw.

By script and case; large scripts are cut into several alphabets. Within an alphabet no two
characters look alike under any rotation, since augmentation rotates freely: the correlation of
their blurred pictures stays under 0.95 at every turn. As in Omniglot, scripts that are related
share shapes (Latin, Greek and Cyrillic capitals).
"""

from __future__ import annotations

GLYPH_ALPHABETS: dict[str, str] = {
    "Latin_upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "Latin_lower": "abcdefghijkmnorstvwxyz",
    "Latin_extended_upper_1": "ÆÐØÞĦŁŊŒŦƁƂƄƆƇƊƋƎƏƐƑƓƔƖƗƘƜƝƟƢƤ",
    "Latin_extended_upper_2": "ĐƦƧƩƬƮƱƲƳƵƷƸƼǤǶǷȜȠȢȤȺȻȽȾɁɃɄɅɆɈ",
    "Latin_extended_lower_1": "ßæðøþđħıĸŋœŧƀƃƈƌƍƒƕƙƛƣƨƪƫƭƴƶƹƺ",
    "Latin_extended_lower_2": "łƅƞƥƽƾƿǝǥȝȡȣȥȴȵȶȷȸȼȿɀɂɇɉɋɍɏⱥⱦⱨ",
    "Phonetic_1": "ɐɑɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɧɨɩɪɫɬɭɮɯ",
    "Phonetic_2": "ɒɦɰɱɲɳɴɵɶɷɸɹɺɻɽɾɿʀʁʂʃʅʆʇʈʉʊʋʌʍ",
    "Phonetic_3": "ɼʄʎʏʐʑʒʓʔʕʗʘʙʚʛʜʝʞʟʠʣʤʥʦʧʨʩʪʫʬ",
    "Greek_upper": "ͰͲͶΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ",
    "Greek_lower": "αβγδεζηθικλμνξοπρςστυφχψωϗϙϛϝϟ",
    "Cyrillic_upper": "ЂЄЅІЈЉЊЋЏАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫ",
    "Cyrillic_lower": "абвгдежзиклмнопрстуфхцчшщъыьэюяђѕіјљ",
    "Cyrillic_extended_1": "ѠѢѤѦѨѪѬѮѰѲѴѸѺѼѾҀҊҌҎҐҒҔҖҘҚҜҞҠҢҤ",
    "Cyrillic_extended_2": "ҦҨҪҬҮҰҲҴҶҸҺҼҾӀӃӅӇӉӋӍӔӘӠӨӶӺӼӾԀԂ",
    "Armenian_upper": "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՇՈՉՊՋՌՎՏՐՒՓՔՕՖ",
    "Armenian_lower": "աբգդեէըթժիլխծկհձճմյշոչպջռվտրցւփքօֆ",
    "Mkhedruli_(Georgian)": "აბგდევზთიკლმნოპჟრსტუფქღყჩცძწჭჯჰჱჲჴჵჶ",
    "Asomtavruli_(Georgian)": "ႠႡႢႣႤႥႦႧႨႩႪႫႬႭႮႯႰႲႴႵႶႷႸႹႺႼႽႾႿჀჁჂჃჄჅ",
    "Nuskhuri_(Georgian)": "ⴀⴁⴂⴃⴄⴅⴆⴇⴈⴉⴋⴎⴏⴒⴓⴔⴕⴗⴘⴙⴛⴜⴝⴞⴟⴠⴡⴢⴤⴥ",
    "Hebrew": "אבגדהוזחטיךכלםמנעףפץצקרשת",
    "Arabic_1": "ءابةتثجخدذرزسشصضطعغفقكلمنه",
    "Arabic_2": "حظوىيٮٯٴٹٺٻټځڇڈډڊڋڌڍڎڑڒړڔڕ",
    "Lao": "ກຂຄງຈຊຍດຕຖທນບປຜຝພມຢຣລວສຫອຮຯະາຽແໂໃໄ",
    "N_Ko": "ߊߋߌߍߎߏߐߑߒߓߔߕߖߗߘߙߚߛߜߝߞߟߠߢߣߤߥ",
    "Tifinagh_1": "ⴰⴱⴲⴳⴵⴶⴷⴹⴻⴼⴽⴾⴿⵁⵂⵃⵄⵅⵆⵇⵈⵉⵊⵋⵌⵍ",
    "Tifinagh_2": "ⴴⴸⴺⵀⵎⵏⵐⵒⵓⵔⵕⵖⵗⵘⵛⵜⵝⵞⵟⵠⵡⵢⵣⵤⵥ",
    "Lisu": "ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓥꓧꓪꓫꓬꓮꓰꓲꓳꓴ",
    "Old_Italic": "𐌀𐌁𐌂𐌃𐌄𐌅𐌆𐌇𐌈𐌉𐌊𐌋𐌌𐌍𐌎𐌏𐌐𐌑𐌒𐌓𐌔𐌕𐌖𐌗𐌘𐌙𐌚𐌛𐌜𐌝𐌞",
    "Ogham": "ᚁᚂᚃᚄᚅᚋᚌᚍᚎᚏᚐᚑᚒᚓᚔᚕᚖᚗᚘᚙᚚ",
    "Canadian_syllabics_1": "ᐁᐂᐄᐅᐆᐋᐌᐍᐏᐑᐒᐓᐔᐕᐘᐙᐚᐝᐟᐡᐤᐥᐦᐩᐪᐫᐬᐭ",
    "Canadian_syllabics_2": "ᐃᐇᐉᐎᐐᐖᐗᐛᐠᐢᐧᐮᐯᐰᐲᐳᐴᐹᐺᐻᐼᐿᑀᑁᑂᑃᑄᑅ",
    "Canadian_syllabics_3": "ᐊᐞᐣᐨᐱᐵᐷᐽᐾᑆᑇᑈᑉᑌᑍᑏᑐᑑᑖᑗᑘᑛᑜᑝᑞᑟᑠᑣ",
    "Canadian_syllabics_4": "ᐸᑊᑎᑒᑔᑙᑚᑡᑢᑤᑥᑦᑧᑨᑩᑪᑫᑬᑭᑮᑰᑱᑳᑴᑵᑶᑷᑸ",
    "Canadian_syllabics_5": "ᑕᑯᑲᑹᑺᑻᑼᑽᑾᑿᒀᒁᒂᒃᒆᒇᒈᒉᒊᒋᒌᒎᒏᒑᒒᒓᒔᒕ",
    "Canadian_syllabics_6": "ᒄᒅᒍᒐᒖᒗᒘᒙᒚᒛᒜᒝᒞᒟᒠᒡᒣᒤᒥᒦᒨᒩᒫᒬᒭᒮᒯᒰ",
    "Canadian_syllabics_7": "ᒢᒧᒪᒱᒲᒳᒴᒵᒶᒷᒸᒹᒺᒼᓀᓁᓂᓃᓅᓈᓉᓊᓍᓐᓑᓒᓓᓔ",
    "Canadian_syllabics_8": "ᒻᒽᓄᓆᓇᓋᓎᓏᓕᓖᓘᓙᓚᓛᓜᓝᓞᓟᓠᓡᓢᓣᓤᓥᓦᓧᓨᓩ",
}
