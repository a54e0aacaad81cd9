SOURCES = ("digits",)
